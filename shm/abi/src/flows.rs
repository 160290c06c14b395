//! Where programs show their flows with services: a file for each `freena run`, mapped by every process that comes of it, and
//! read by `freena status`. No server has a part in it.
//!
//! A process writes its own records, and only its user can reach the file. A record's `told` is written between two steps of
//! its `sequence`, which is odd meanwhile: who reads reads again if it has changed.

use core::sync::atomic::{AtomicU32, AtomicU64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Environment variable with the file's path.
pub const ENV_FLOWS: &str = "FREENA_FLOWS";
/// Version of this module.
pub const FLOWS_VERSION: u32 = 1;
/// Flows that a file has room for; more are carried, and counted in [`Head::lost`].
pub const RECORDS: usize = 512;
/// Processes that a file has room for.
pub const PROCESSES: usize = 768;
/// Most bytes of the path in [`Head::source`].
pub const MAX_SOURCE: usize = 1000;
/// Bytes of the file.
pub const SIZE: usize = size_of::<Head>() + RECORDS * size_of::<Record>();

/// The file's first page.
#[repr(C)]
#[derive(Debug)]
pub struct Head {
    /// [`crate::MAGIC`]; `freena run` writes it and the next two.
    pub magic: u64,
    /// [`FLOWS_VERSION`].
    pub version: u32,
    /// Bytes of `source` that are used.
    pub source_len: u32,
    /// The configuration's file, as an absolute path.
    pub source: [u8; MAX_SOURCE],
    /// Flows that found no room.
    pub lost: AtomicU32,
    reserved: u32,
    /// Process ids, 0 for an empty place: the file is in use while one of them lives.
    pub processes: [AtomicU32; PROCESSES],
}

/// A flow.
#[repr(C)]
#[derive(Debug)]
pub struct Record {
    /// The process that has the flow; 0: nobody's.
    pub pid: AtomicU32,
    /// Odd while `told` is written.
    pub sequence: AtomicU32,
    /// 1: the flow is over, by an error that is kept until somebody needs the place.
    pub over: AtomicU32,
    reserved: u32,
    /// A [`Told`].
    pub told: [AtomicU64; TOLD_WORDS],
}

/// Words of a [`Told`].
pub const TOLD_WORDS: usize = size_of::<Told>() / 8;

/// What is told of a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Told {
    /// When it began, in nanoseconds of CLOCK_MONOTONIC.
    pub begun: u64,
    /// When it ended by an error; 0 while it goes on.
    pub ended: u64,
    /// Messages that were refused.
    pub refused: u64,
    /// Own address; of IPv4 as `::ffff:a.b.c.d`.
    pub local: [u8; 16],
    /// The peer's address.
    pub peer: [u8; 16],
    /// Own port.
    pub local_port: u16,
    /// The peer's port.
    pub peer_port: u16,
    /// IP protocol number: 6 or 17.
    pub transport: u8,
    /// 0: client, 1: server.
    pub role: u8,
    /// A [`state`].
    pub state: u8,
    /// 0.
    pub reserved: u8,
    /// What the program got by errno; 0 for none.
    pub errno: u32,
    /// Bytes of `services`, of `reason` and of `figures` that are used.
    pub lengths: [u16; 3],
    /// 0.
    pub reserved2: [u8; 6],
    /// The program's name.
    pub program: [u8; 16],
    /// Services and the lines of the rules that chose them, in words.
    pub services: [u8; 280],
    /// Why something was refused last.
    pub reason: [u8; 320],
    /// What services have counted, in words.
    pub figures: [u8; 312],
}

impl Default for Told {
    fn default() -> Self {
        zerocopy::FromZeros::new_zeroed()
    }
}

/// How far a flow is: [`Told::state`].
pub mod state {
    /// Nothing is known of the peer.
    pub const WAITING: u8 = 0;
    /// The two ends are about to agree.
    pub const AGREEING: u8 = 1;
    /// They agree.
    pub const OPEN: u8 = 2;
    /// The peer has no freena, and the rule allows that.
    pub const PLAIN: u8 = 3;
    /// It is over, by an error.
    pub const FAILED: u8 = 4;
}

const _: () = {
    assert!(size_of::<Head>() == 4096);
    assert!(size_of::<Record>() == 1024);
    assert!(size_of::<Told>() == 1008);
};
