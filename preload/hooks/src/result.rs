//! From what the interface layer says to what a C function returns.

use freena_preload_control::sys;
use freena_preload_interface::outcome::{Outcome, Stop};

/// What a hook does.
pub(crate) enum Verdict {
    /// Return this.
    Return(isize),
    /// Call the next library's function with the same arguments.
    Next,
}

/// The one place where errors are told to the program.
#[inline]
pub(crate) fn verdict(outcome: Outcome) -> Verdict {
    match outcome {
        Ok(value) => Verdict::Return(value),
        Err(Stop::Bypass(_)) => Verdict::Next,
        Err(Stop::Error(error)) => {
            sys::set_errno(error.errno());
            Verdict::Return(-1)
        }
    }
}

/// Defines a hook: its C signature, what the layers have to say from the top down (services, interface), and, where that is
/// "bypass", the next function with the same name and arguments.
macro_rules! hook {
    ($( $(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty = $outcome:expr $(, else $below:expr)?; )*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// That of the C function.
            #[unsafe(no_mangle)]
            pub unsafe extern "C-unwind" fn $name($($arg: $ty),*) -> $ret {
                // SAFETY: the pointers are the program's, given for exactly this.
                #[allow(unused_unsafe, clippy::macro_metavars_in_unsafe)]
                let outcome = unsafe { $outcome };
                $(
                    #[allow(unused_unsafe, clippy::macro_metavars_in_unsafe)]
                    let outcome = match outcome {
                        Err(freena_preload_interface::outcome::Stop::Bypass(_)) => {
                            // SAFETY: as above.
                            unsafe { $below }
                        }
                        other => other,
                    };
                )?
                match crate::result::verdict(outcome) {
                    crate::result::Verdict::Return(value) => value as $ret,
                    // SAFETY: as above; no destructor is pending.
                    crate::result::Verdict::Next => unsafe { freena_preload_control::next::$name($($arg),*) },
                }
            }
        )*
    };
}

pub(crate) use hook;
