//! posix_spawn(3), whose child runs nothing of this library between its making and the new program.
//!
//! Where that program will not have the library, the child has to find the kernel's own sockets under the numbers of those
//! of the framework. So these are borrowed under high numbers that the new program does not see (close-on-exec), and the
//! list of file actions that the libc works off in the child is replaced by a longer one: it begins with a dup2(2) for each
//! socket that the program would inherit, and where an action of the program's own duplicates a framework socket, it
//! duplicates the kernel's. This process keeps its sockets as they are.

use crate::exec::{is_framework, lend, survives};
use crate::program::{self, Name};
use crate::table;
use core::ffi::{c_char, c_int, c_void};
use core::{ptr, slice};
use freena_preload_control::{log, process, settings, sys};

/// Framework sockets that one new program can get.
const MAX: usize = 64;
/// Borrowed sockets have at least this number: below are those that programs give to standard streams and the like.
const FIRST_BORROWED: c_int = 200;

/// `posix_spawn_file_actions_t` of the GNU libc (spawn.h).
#[repr(C)]
struct FileActions {
    allocated: c_int,
    used: c_int,
    actions: *mut Action,
    pad: [c_int; 16],
}

/// `struct __spawn_action` (posix/spawn_int.h of the GNU libc 2.36): a tag, and a union that begins with a descriptor, and
/// for dup2 a second one.
#[derive(Clone, Copy)]
#[repr(C)]
struct Action {
    tag: c_int,
    pad: c_int,
    fd: c_int,
    new: c_int,
    rest: [u64; 2],
}

const _: () = assert!(size_of::<Action>() == 32 && size_of::<FileActions>() == 80);

// Of the enumeration beside it.
const CLOSE: c_int = 0;
const DUP2: c_int = 1;
const OPEN: c_int = 2;
const CLOSE_FROM: c_int = 5;

impl Action {
    const fn dup2(fd: c_int, new: c_int) -> Self {
        Action { tag: DUP2, pad: 0, fd, new, rest: [0; 2] }
    }

    /// The highest number that it is about.
    fn highest(&self) -> c_int {
        match self.tag {
            CLOSE | OPEN => self.fd,
            DUP2 => self.fd.max(self.new),
            _ => 0,
        }
    }

    /// Whether it takes from `fd` what was there.
    const fn replaces(&self, fd: c_int) -> bool {
        match self.tag {
            CLOSE | OPEN => self.fd == fd,
            DUP2 => self.new == fd && self.fd != fd,
            CLOSE_FROM => self.fd <= fd,
            _ => false,
        }
    }
}

/// What stands in for the program's list of file actions while it spawns. Gives back, when dropped, what it borrowed.
pub struct Prepared {
    list: FileActions,
    /// Framework sockets, and the kernel's in their place.
    pairs: [(c_int, c_int); MAX],
    count: usize,
}

/// Before posix_spawn(3) and posix_spawnp(3): what to pass in the place of `actions`, if anything.
///
/// # Safety
/// The pointers are what the program passed.
pub unsafe fn before(
    name: Name,
    actions: *const c_void,
    environment: *const *const c_char,
) -> Option<Prepared> {
    if !settings::get().is_active() || process::is_vfork_child() || table::is_empty() {
        return None;
    }
    // SAFETY: the caller's: null, or a list that the libc's functions have made.
    let own = unsafe { actions.cast::<FileActions>().as_ref() };
    let own = own.filter(|list| !list.actions.is_null() && list.used > 0);
    // SAFETY: as above.
    let own = own.map_or(&[][..], |list| unsafe { slice::from_raw_parts(list.actions, list.used as usize) });
    let duplicated = |action: &Action| action.tag == DUP2 && is_framework(action.fd);
    if !own.iter().any(duplicated) && !table::tracked(0, u32::MAX).any(survives) {
        return None;
    }
    // SAFETY: the caller's.
    let why = unsafe { program::without(name, environment) }?;
    log::decision(format_args!("the spawned program goes without the framework: {}", why.words()));
    Prepared::new(own)
}

impl Prepared {
    fn new(own: &[Action]) -> Option<Prepared> {
        let room = MAX + own.len();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new anonymous mapping touches no existing memory.
        let base = unsafe { libc::mmap(ptr::null_mut(), room * size_of::<Action>(), access, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return None;
        }
        let list = FileActions { allocated: room as c_int, used: 0, actions: base.cast(), pad: [0; 16] };
        let mut prepared = Prepared { list, pairs: [(-1, -1); MAX], count: 0 };
        let above =
            own.iter().map(|action| action.highest().saturating_add(1)).fold(FIRST_BORROWED, c_int::max);
        for fd in table::tracked(0, u32::MAX).filter(|fd| survives(*fd)) {
            if let Some(kernel) = prepared.borrow(fd, above) {
                prepared.push(Action::dup2(kernel, fd));
            }
        }
        for (index, action) in own.iter().enumerate() {
            let mut action = *action;
            if action.tag == DUP2
                && is_framework(action.fd)
                && !own[..index].iter().any(|earlier| earlier.replaces(action.fd))
                && let Some(kernel) = prepared.borrow(action.fd, above)
            {
                action.fd = kernel;
            }
            prepared.push(action);
        }
        Some(prepared)
    }

    /// To be passed in the place of the program's list.
    pub fn actions(&self) -> *const c_void {
        (&raw const self.list).cast()
    }

    fn push(&mut self, action: Action) {
        if self.list.used < self.list.allocated {
            // SAFETY: the array has `allocated` elements.
            unsafe { self.list.actions.add(self.list.used as usize).write(action) };
            self.list.used += 1;
        }
    }

    /// The kernel's socket in the place of a framework socket, under a number of at least `above`.
    fn borrow(&mut self, fd: c_int, above: c_int) -> Option<c_int> {
        if let Some((_, kernel)) = self.pairs[..self.count].iter().find(|(framework, _)| *framework == fd) {
            return Some(*kernel);
        }
        if self.count == MAX {
            log::decision(format_args!("socket fd {fd} will not work in the new program: too many"));
            return None;
        }
        let lent = lend(fd, false)?;
        let kernel = sys::fcntl(lent, libc::F_DUPFD_CLOEXEC, above as usize);
        let _ = sys::close(lent);
        let kernel = kernel.ok()?;
        self.pairs[self.count] = (fd, kernel);
        self.count += 1;
        Some(kernel)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        for (_, kernel) in &self.pairs[..self.count] {
            let _ = sys::close(*kernel);
        }
        let len = self.list.allocated as usize * size_of::<Action>();
        // SAFETY: mapped by `new`, and nobody else has it.
        unsafe { libc::munmap(self.list.actions.cast(), len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem;

    #[test]
    fn the_libcs_lists_are_read_as_it_writes_them() {
        // SAFETY: the list is initialised before it is used, and destroyed after.
        unsafe {
            let mut list: libc::posix_spawn_file_actions_t = mem::zeroed();
            assert_eq!(size_of_val(&list), size_of::<FileActions>());
            libc::posix_spawn_file_actions_init(&mut list);
            libc::posix_spawn_file_actions_addclose(&mut list, 7);
            libc::posix_spawn_file_actions_adddup2(&mut list, 8, 9);
            libc::posix_spawn_file_actions_addopen(&mut list, 10, c"/".as_ptr(), libc::O_RDONLY, 0o600);
            let read = &*(&raw const list).cast::<FileActions>();
            let actions = slice::from_raw_parts(read.actions, read.used as usize);
            let told: Vec<_> = actions.iter().map(|action| (action.tag, action.fd)).collect();
            assert_eq!(told, [(CLOSE, 7), (DUP2, 8), (OPEN, 10)]);
            assert_eq!(actions[1].new, 9);
            assert!(actions[0].replaces(7) && actions[1].replaces(9) && actions[2].replaces(10));
            assert!(!actions[1].replaces(8) && !Action::dup2(9, 9).replaces(9));
            libc::posix_spawn_file_actions_destroy(&mut list);
        }
    }
}
