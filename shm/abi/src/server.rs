//! The page that every program maps read-only.

use core::sync::atomic::{AtomicU32, AtomicU64};

/// Written by the server alone; the memfd carries `F_SEAL_FUTURE_WRITE` (Linux 5.1), so no program can map it writable.
#[derive(Debug, Default)]
#[repr(C, align(4096))]
pub struct ServerPage {
    /// [`crate::MAGIC`].
    pub magic: AtomicU64,
    /// [`crate::ABI_VERSION`].
    pub version: AtomicU32,
    /// Worker threads, and so receive rings per socket.
    pub workers: AtomicU32,
    /// Changes whenever an answer to [`crate::control::op::ROUTE`] may have become wrong.
    pub route_epoch: AtomicU64,
}

const _: () = assert!(size_of::<ServerPage>() == 4096);
