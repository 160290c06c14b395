//! Two processes over a sealed memfd, honest and not.
#![cfg(not(any(loom, miri)))]

use freena_shm_abi::record::Record;
use freena_shm_abi::socket::{MAX_RING, MAX_RX_RINGS, MIN_RING, PAGE};
use freena_shm_abi::{ABI_VERSION, MAGIC};
use freena_shm_ring::cursor::{ConsumerCursor, Corrupt, ProducerCursor};
use freena_shm_ring::mapping::{Sizes, map_shared, memfd};
use freena_shm_ring::{Consumer, Message, Producer, SocketMapping};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

const SMALL: Sizes = Sizes { tx: MIN_RING, rx: MIN_RING, rx_rings: 1 };

/// A child process that runs `body` and nothing else; killed on drop.
struct Child(libc::pid_t);

impl Child {
    fn run(body: impl FnOnce()) -> Self {
        // SAFETY: the child runs `body`, which allocates nothing and takes no lock that another thread of the test
        // process may hold, and leaves by `_exit`; a panic in it aborts at the boundary below.
        match unsafe { libc::fork() } {
            0 => {
                let code = i32::from(std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err());
                // SAFETY: ends the child without running the parent's exit handlers.
                unsafe { libc::_exit(code) }
            }
            pid if pid > 0 => Child(pid),
            _ => panic!("fork: {}", io::Error::last_os_error()),
        }
    }

    fn is_running(&self) -> bool {
        // SAFETY: asks after a child of this process without waiting.
        unsafe { libc::waitpid(self.0, std::ptr::null_mut(), libc::WNOHANG) == 0 }
    }

    /// Waits for its end; whether `body` returned.
    fn finished_well(self) -> bool {
        let mut status = 0;
        // SAFETY: waits for a child of this process, whose id is not reused before.
        let got = unsafe { libc::waitpid(self.0, &mut status, 0) };
        let well = got == self.0 && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
        std::mem::forget(self);
        well
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: a child of this process that has not been waited for.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

fn next_state(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// FNV-1a over what a record says and carries.
fn digest(sum: u64, number: u64, bytes: &[u8]) -> u64 {
    let step = |sum: u64, word: u64| (sum ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = words.iter().fold(step(sum, number), |sum, word| step(sum, u64::from_le_bytes(*word)));
    rest.iter().fold(sum, |sum, byte| step(sum, u64::from(*byte)))
}

const RECORDS: u64 = 2_000_000;

/// Most are small, some have a full MTU, a few are as large as they get.
fn length(state: &mut u64) -> usize {
    match next_state(state) % 1000 {
        0 => 65_527,
        1..=100 => 1472,
        _ => (*state >> 32) as usize % 200,
    }
}

#[test]
fn two_million_records_reach_another_process() {
    let (mapping, fd) = SocketMapping::create(SMALL, 7).unwrap();
    let report = SocketMapping::create(SMALL, 8).unwrap().0;
    // The child answers through the second mapping's words: the count and the sum.
    let answer = report.page();
    let child = Child::run(|| {
        let mapping = SocketMapping::open(fd.as_fd()).unwrap();
        let mut cursor = ConsumerCursor::default();
        let mut consumer = Consumer::new(mapping.tx(), &mut cursor);
        let mut bytes = [0; 65_527];
        let (mut sum, mut count) = (0, 0);
        while count < RECORDS {
            match consumer.next().unwrap() {
                Some(message) => {
                    let bytes = &mut bytes[..message.record.len as usize];
                    message.read(0, bytes);
                    sum = digest(sum, message.record.timestamp, bytes);
                    count += 1;
                    if count.is_multiple_of(16) {
                        consumer.release();
                    }
                }
                None => {
                    consumer.release();
                    thread::yield_now();
                }
            }
        }
        answer.tx_head.0.store(sum, Ordering::Relaxed);
        answer.tx_tail.0.store(count, Ordering::Release);
    });
    let mut cursor = ProducerCursor::default();
    let mut producer = Producer::new(mapping.tx(), &mut cursor);
    let source: Vec<u8> = (0..70_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut state, mut sum) = (88_172_645_463_325_252, 0);
    let deadline = Instant::now() + Duration::from_secs(60);
    for number in 0..RECORDS {
        let len = length(&mut state);
        let bytes = &source[number as usize % 4000..][..len];
        let record = Record { len: len as u32, timestamp: number, ..Record::default() };
        let mut slot = loop {
            match producer.reserve(&record) {
                Ok(slot) => break slot,
                Err(_) => {
                    assert!(Instant::now() < deadline, "the reader stopped after {number} records");
                    thread::yield_now();
                }
            }
        };
        slot.write(0, bytes);
        producer.publish();
        sum = digest(sum, number, bytes);
    }
    assert!(child.finished_well());
    assert_eq!(answer.tx_tail.0.load(Ordering::Acquire), RECORDS);
    assert_eq!(answer.tx_head.0.load(Ordering::Relaxed), sum);
}

/// Takes a record as the server does: its payload, too, is read.
fn take(message: &Message<'_>, bytes: &mut [u8]) {
    message.read(0, &mut bytes[..message.record.len as usize]);
}

#[test]
fn a_scribbling_process_harms_only_itself() {
    let (mapping, fd) = SocketMapping::create(SMALL, 9).unwrap();
    let length = mapping.sizes().tx as usize + mapping.sizes().rx as usize + PAGE;
    let scribbler = Child::run(|| {
        let base = map_shared(fd.as_raw_fd(), length, libc::PROT_READ | libc::PROT_WRITE).unwrap();
        let page = mapping.page();
        let word_of =
            |word: &AtomicU64| (std::ptr::from_ref(word).addr() - std::ptr::from_ref(page).addr()) / 8;
        let (tx_tail, rx_head) = (word_of(&page.tx_tail.0), word_of(&page.rx[0].head.0));
        let mut state = 0x2545_f491_4f6c_dd1d;
        loop {
            let random = next_state(&mut state);
            let (offset, value) = match random % 16 {
                // Believable positions, so that some of the rest is reached.
                0..4 => {
                    (tx_tail, page.tx_head.0.load(Ordering::Relaxed).wrapping_add(random >> 20 & 0xf_ffc0))
                }
                4..8 => (
                    rx_head,
                    page.rx[0].produced.0.tail.load(Ordering::Relaxed).wrapping_sub(random >> 20 & 0x1ffc0),
                ),
                8 => (if random & 256 == 0 { tx_tail } else { rx_head }, next_state(&mut state)),
                9 => ((random >> 8) as usize % (PAGE / 8), next_state(&mut state)),
                10 => ((random >> 8) as usize % (length / 8), next_state(&mut state)),
                // Length and flags of a record: small, large, padding.
                _ => {
                    let flags = if random & 256 == 0 { 1 << 32 } else { 0 };
                    let len = next_state(&mut state) % if random & 512 == 0 { 256 } else { 70_000 };
                    ((PAGE + (random >> 20) as usize % ((length - PAGE) / 64) * 64) / 8, len | flags)
                }
            };
            // SAFETY: a word within the mapping; that others use it is the point.
            unsafe { base.cast::<u64>().add(offset).write_volatile(value) };
        }
    });
    let (mut taken, mut sent, mut corrupt) = (0_u64, 0_u64, [0_u64; 4]);
    let (mut tail, mut head) = (ProducerCursor::default(), ConsumerCursor::default());
    let mut bytes = vec![0; 65_527];
    let payload = vec![1; 65_527];
    let begin = Instant::now();
    let (least, most) = (Duration::from_secs(2), Duration::from_secs(30));
    let mut longest = Duration::ZERO;
    // At least for a while, and on a busy machine until each kind of damage has been met.
    let met =
        |taken, sent, corrupt: &[u64; 4]| taken > 0 && sent > 0 && corrupt.iter().all(|count| *count > 0);
    while begin.elapsed() < least || (!met(taken, sent, &corrupt) && begin.elapsed() < most) {
        // The server's two ends: the consumer of the transmit ring, the producer of a receive ring.
        let start = Instant::now();
        let mut consumer = Consumer::new(mapping.tx(), &mut head);
        match consumer.next() {
            Ok(Some(message)) => {
                take(&message, &mut bytes);
                consumer.release();
                taken += 1;
            }
            Ok(None) => {}
            Err(error) => {
                corrupt[match error {
                    Corrupt::Tail { .. } => 0,
                    Corrupt::Misaligned { .. } => 1,
                    Corrupt::Length { .. } => 2,
                    Corrupt::Padding { .. } => 3,
                }] += 1;
                // The real server closes the socket. Here it goes on at what the liar says.
                head = ConsumerCursor::default();
                head.head = mapping.page().tx_tail.0.load(Ordering::Relaxed) & !63;
                head.cached_tail = head.head;
                Consumer::new(mapping.tx(), &mut head).release();
            }
        }
        let mut producer = Producer::new(mapping.rx(0), &mut tail);
        let len = taken as usize * 97 % payload.len();
        if let Ok(mut slot) = producer.reserve(&Record { len: len as u32, ..Record::default() }) {
            slot.write(0, &payload[..len]);
            producer.publish();
            sent += 1;
        }
        longest = longest.max(start.elapsed());
    }
    assert!(scribbler.is_running());
    let told = format!("{taken} taken, {sent} sent, {corrupt:?} corrupt by kind, longest turn {longest:?}");
    assert!(met(taken, sent, &corrupt), "too tame: {told}");
    println!("{told}");
}

/// A memfd of `len` bytes that says what an honest server's would, for rings of these sizes.
fn imitation(len: usize, magic: u64, version: u32, sizes: Sizes) -> OwnedFd {
    let fd = memfd(c"imitation", len).unwrap();
    let file = std::fs::File::from(fd);
    let mut header = Vec::new();
    header.extend(magic.to_ne_bytes());
    for word in [version, sizes.rx_rings, sizes.tx, sizes.rx] {
        header.extend(word.to_ne_bytes());
    }
    file.write_all_at(&header[..header.len().min(len)], 0).unwrap();
    file.into()
}

fn error_of(fd: BorrowedFd<'_>) -> Option<i32> {
    SocketMapping::open(fd).err().and_then(|error| error.raw_os_error())
}

#[test]
fn wrong_memory_is_refused() {
    let total = PAGE + 2 * MIN_RING as usize;
    let proto = Some(libc::EPROTO);
    let right = imitation(total, MAGIC, ABI_VERSION, SMALL);
    assert_eq!(SocketMapping::open(right.as_fd()).unwrap().sizes(), SMALL);
    let refused =
        |len, magic, version, sizes| error_of(imitation(len, magic, version, sizes).as_fd()) == proto;
    assert!(refused(0, MAGIC, ABI_VERSION, SMALL), "empty: must not fault either");
    assert!(refused(PAGE - 1, MAGIC, ABI_VERSION, SMALL), "less than a page");
    assert!(refused(total - 1, MAGIC, ABI_VERSION, SMALL), "shorter than it says");
    assert!(refused(total, MAGIC ^ 1, ABI_VERSION, SMALL), "another magic");
    assert!(refused(total, MAGIC, ABI_VERSION + 1, SMALL), "another version");
    for sizes in [
        Sizes { tx: MIN_RING / 2, ..SMALL },
        Sizes { tx: MIN_RING + 4096, ..SMALL },
        Sizes { rx: MAX_RING * 2, ..SMALL },
        Sizes { rx: 0, ..SMALL },
        Sizes { rx_rings: 0, ..SMALL },
        Sizes { rx_rings: MAX_RX_RINGS as u32 + 1, ..SMALL },
    ] {
        assert!(refused(total, MAGIC, ABI_VERSION, sizes), "{sizes:?}");
    }
    let (end, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
    assert!(error_of(end.as_fd()).is_some(), "a socket is no memory");
}

#[test]
fn seals_hold() {
    let (mapping, fd) = SocketMapping::create(SMALL, 10).unwrap();
    for len in [0, PAGE as libc::off_t, (total(&mapping) + PAGE) as libc::off_t] {
        // SAFETY: plain system call on an owned descriptor.
        let result = unsafe { libc::ftruncate(fd.as_raw_fd(), len) };
        assert_eq!((result, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EPERM)), "to {len}");
    }
    // SAFETY: as above.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE) };
    assert_eq!((result, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EPERM)));
}

fn total(mapping: &SocketMapping) -> usize {
    let sizes = mapping.sizes();
    PAGE + sizes.tx as usize + sizes.rx as usize * sizes.rx_rings as usize
}

#[test]
fn sizes_are_clamped_to_what_open_takes() {
    for (tx, rx, rings) in [(0, 0, 0), (1, u32::MAX, u32::MAX), (MIN_RING + 1, MAX_RING - 1, 3)] {
        let sizes = Sizes::clamp(tx, rx, rings);
        let (mapping, fd) = SocketMapping::create(sizes, 11).unwrap();
        let opened = SocketMapping::open(fd.as_fd()).unwrap();
        assert_eq!((opened.sizes(), opened.socket_id()), (sizes, 11));
        assert_eq!(mapping.rx(sizes.rx_rings as usize - 1).size(), u64::from(sizes.rx));
    }
}
