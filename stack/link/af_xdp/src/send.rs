//! Sending through the TX ring of an AF_XDP socket: frames are built in the UMEM, segmented in software.

use std::io;

use freena_link_raw::{Frames, SendStats};
use freena_stack_api::Burst;
use xsk_rs::{CompQueue, TxQueue, Umem, umem::frame::FrameDesc};

/// Descriptors the kernel sends in one call in copy mode (`TX_BATCH_SIZE` in net/xdp/xsk.c).
const KERNEL_BATCH: usize = 32;

/// The sending half of an AF_XDP socket.
pub(crate) struct RingSender {
    umem: Umem,
    tx: TxQueue,
    /// Entries of the TX ring.
    ring: u32,
    completion: CompQueue,
    /// Frames that hold nothing.
    free: Vec<FrameDesc>,
    /// How many frames there are.
    frames: usize,
    /// Frames of the burst that is being written.
    ready: Vec<FrameDesc>,
    completed: Box<[FrameDesc]>,
    /// Bytes that fit into one frame.
    room: usize,
    stats: SendStats,
}

impl RingSender {
    /// A sender that owns the frames `free`, each with room for `room` bytes.
    pub(crate) fn new(
        umem: Umem,
        mut tx: TxQueue,
        completion: CompQueue,
        free: Vec<FrameDesc>,
        room: usize,
    ) -> Self {
        RingSender {
            umem,
            ring: tx.nb_free_exact(),
            tx,
            completion,
            frames: free.len(),
            ready: Vec::with_capacity(free.len()),
            completed: vec![FrameDesc::default(); KERNEL_BATCH * 2].into(),
            free,
            room,
            stats: SendStats::default(),
        }
    }

    pub(crate) fn stats(&self) -> SendStats {
        self.stats
    }

    /// See [`freena_stack_api::Link::transmit`].
    pub(crate) fn transmit(&mut self, bursts: &[Burst<'_>]) -> io::Result<usize> {
        self.reclaim();
        let mut taken = 0;
        for burst in bursts {
            match Frames::new(burst) {
                Some(frames) if frames.longest() <= self.room && frames.remaining() <= self.frames => {
                    if frames.remaining() > self.free.len() {
                        self.kick()?;
                        self.reclaim();
                    }
                    if frames.remaining() > self.free.len() {
                        break;
                    }
                    self.write(frames);
                    self.stats.sent(burst);
                }
                _ => self.stats.gave_up(burst),
            }
            taken += 1;
        }
        self.kick()?;
        Ok(taken)
    }

    /// Builds the frames and puts them into the ring. There are free frames for all of them.
    fn write(&mut self, mut frames: Frames<'_>) {
        self.ready.clear();
        while frames.remaining() > 0
            && let Some(mut desc) = self.free.pop()
        {
            // SAFETY: the descriptor came from this UMEM, and since it was free neither the kernel nor anyone else uses
            // the frame.
            let mut data = unsafe { self.umem.data_mut(&mut desc) };
            let mut cursor = data.cursor();
            let room = cursor.buf_len();
            cursor.set_pos(room);
            let len = frames.write(data.contents_mut()).unwrap_or(0);
            data.cursor().set_pos(len);
            self.ready.push(desc);
        }
        // SAFETY: the frames are of this UMEM and were free; from here on the kernel owns them until they come back
        // through the completion ring.
        let produced = unsafe { self.tx.produce(&self.ready) };
        // The ring has more entries than there are frames to send, so there was room.
        debug_assert_eq!(produced, self.ready.len());
        if produced == 0 {
            self.free.append(&mut self.ready);
        }
    }

    /// Has the kernel send what waits in the ring.
    pub(crate) fn kick(&mut self) -> io::Result<()> {
        // In copy mode each call sends a batch; the bound keeps a device that takes nothing from holding the thread.
        for _ in 0..=self.frames / KERNEL_BATCH {
            if self.tx.nb_free_exact() == self.ring || !self.tx.needs_wakeup() {
                break;
            }
            self.tx.wakeup()?;
        }
        Ok(())
    }

    /// Whether frames are on their way.
    pub(crate) fn is_busy(&self) -> bool {
        self.free.len() < self.frames
    }

    /// Takes back the frames that were sent.
    fn reclaim(&mut self) {
        loop {
            // SAFETY: the completion ring is that of this UMEM.
            let count = unsafe { self.completion.consume(&mut self.completed) };
            self.free.extend_from_slice(&self.completed[..count]);
            if count < self.completed.len() {
                break;
            }
        }
    }
}
