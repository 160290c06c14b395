//! A ring of records with inline payload, over the cursors of [`crate::cursor`].

use crate::cursor::{ConsumerCursor, Corrupt, ProducerCursor};
use crate::sync::AtomicU64;
use core::{marker::PhantomData, ptr};
use freena_shm_abi::record::{ALIGN, MAX_PAYLOAD, Record, flags};

/// The shared words of a ring; see [`crate::cursor`].
#[derive(Clone, Copy, Debug)]
pub struct Words<'m> {
    /// End of what may be read.
    pub tail: &'m AtomicU64,
    /// Start of what has not been read.
    pub head: &'m AtomicU64,
    /// Position of the byte at the start of the ring.
    pub base: &'m AtomicU64,
}

/// The shared part of a ring: its bytes and its words.
#[derive(Clone, Copy, Debug)]
pub struct Channel<'m> {
    data: *mut u8,
    size: u64,
    words: Words<'m>,
    memory: PhantomData<&'m [u8]>,
}

impl<'m> Channel<'m> {
    /// Describes a ring of `size` bytes at `data`.
    ///
    /// # Safety
    /// - `data..data + size` is mapped readable and writable for `'m` and cannot be made to fault (a memfd sealed
    ///   against shrinking, or memory of this process), and `data` is a multiple of 64;
    /// - `size` is a power of two and at least 128;
    /// - within this process there is at most one producer and one consumer of the ring at a time, and nothing else
    ///   touches its bytes.
    pub const unsafe fn new(data: *mut u8, size: u64, words: Words<'m>) -> Self {
        debug_assert!(size.is_power_of_two());
        Channel { data, size, words, memory: PhantomData }
    }

    /// Bytes in the ring.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Whether the producer has published something that the consumer has not released, as both words stand now.
    pub fn has_data(&self, head: u64) -> bool {
        self.words.tail.load(crate::sync::Ordering::Acquire) != head
    }

    /// The shared tail.
    pub const fn tail(&self) -> &'m AtomicU64 {
        self.words.tail
    }

    /// The shared head.
    pub const fn head(&self) -> &'m AtomicU64 {
        self.words.head
    }

    /// Where in the ring a position is. Rounded down to the record alignment, so that 64 bytes can be accessed there
    /// whatever the position: cursors are loaded from memory that other holders of the socket write too.
    const fn offset(&self, base: u64, position: u64) -> u64 {
        position.wrapping_sub(base) & (self.size - ALIGN as u64)
    }

    /// Address of the record at an offset that [`Channel::offset`] gave.
    fn at(&self, offset: u64) -> *mut u8 {
        debug_assert!(offset < self.size && offset.is_multiple_of(ALIGN as u64));
        // SAFETY: `new` demands `size` mapped bytes; the offset is at most `size - 64`.
        unsafe { self.data.add(offset as usize) }
    }

    fn write_record(&self, offset: u64, record: &Record) {
        // SAFETY: `at` leaves 64 bytes before the end of the ring and is aligned to 64; `Record` needs 8. Nobody in this process reads there: the position is not
        // published yet.
        unsafe { ptr::write(self.at(offset).cast::<Record>(), *record) }
    }

    fn read_record(&self, offset: u64) -> Record {
        // SAFETY: as in `write_record`; any bytes make a valid `Record`. Volatile, so that what is checked is what is
        // used: the other side may be writing at this moment.
        unsafe { ptr::read_volatile(self.at(offset).cast::<Record>()) }
    }
}

/// Why a record was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not now: the consumer has to read first.
    Full,
    /// Never: the ring is too small for it, or it is longer than [`MAX_PAYLOAD`].
    TooLong,
}

/// The writing side. Made for the time of one or more records from the channel and the private cursor.
pub struct Producer<'m, 'c> {
    channel: Channel<'m>,
    cursor: &'c mut ProducerCursor,
}

/// Room for the payload of one record that has been reserved.
pub struct Slot<'m> {
    data: *mut u8,
    len: usize,
    memory: PhantomData<&'m [u8]>,
}

impl<'m, 'c> Producer<'m, 'c> {
    /// Joins channel and cursor. `cursor.tail` must be the position that was last published, or 0 on a new ring. It is
    /// rounded down to the record alignment: where others can write it, a wrong one stays harmless to this process.
    pub fn new(channel: Channel<'m>, cursor: &'c mut ProducerCursor) -> Self {
        cursor.tail &= !(ALIGN as u64 - 1);
        Producer { channel, cursor }
    }

    /// Bytes that are free for sure, footprints included; the shared head is looked at only if fewer than `need`.
    pub fn free(&mut self, need: usize) -> u64 {
        self.cursor.free(self.channel.words.head, self.channel.size, need as u64)
    }

    /// Bytes that the consumer has not released, footprints included. Looks at the shared head.
    pub fn unread(&mut self) -> u64 {
        self.channel.size - self.cursor.free(self.channel.words.head, self.channel.size, self.channel.size)
    }

    /// Bytes from the start of the ring to the end of what has been written.
    pub fn reach(&self) -> u64 {
        self.channel.offset(self.cursor.base, self.cursor.tail)
    }

    /// Reserves room for `record` with its `record.len` payload bytes and writes its header. Nothing is visible to the
    /// consumer before [`Producer::publish`]; several records may be reserved before it.
    ///
    /// # Errors
    /// [`Refused::Full`] and [`Refused::TooLong`]; nothing has changed then.
    #[inline]
    pub fn reserve(&mut self, record: &Record) -> Result<Slot<'m>, Refused> {
        let len = record.len as usize;
        let size = self.channel.size;
        let need = Record::footprint(len) as u64;
        // Twice, because a record may need as many bytes of padding before it as it needs itself.
        if len > MAX_PAYLOAD || need * 2 > size {
            return Err(Refused::TooLong);
        }
        let mut offset = self.channel.offset(self.cursor.base, self.cursor.tail);
        let pad = if size - offset < need { size - offset } else { 0 };
        if self.cursor.free(self.channel.words.head, size, pad + need) < pad + need {
            return Err(Refused::Full);
        }
        if pad > 0 {
            let filler = Record { len: (pad - ALIGN as u64) as u32, flags: flags::PAD, ..Record::default() };
            self.channel.write_record(offset, &filler);
            offset = 0;
        }
        self.channel.write_record(offset, record);
        let data = self.channel.at(offset).wrapping_add(ALIGN);
        self.cursor.tail = self.cursor.tail.wrapping_add(pad + need);
        Ok(Slot { data, len, memory: PhantomData })
    }

    /// Before the first record of a batch, all before it being published: goes back to the start of the ring if the consumer has
    /// read everything, so that a stream goes through few pages of memory, which the caches hold. Looks at the shared head.
    pub fn begin_batch(&mut self) {
        let Words { head, base, .. } = self.channel.words;
        self.cursor.rebase(head, base, self.channel.size);
    }

    /// Makes everything reserved so far visible to the consumer.
    pub fn publish(&mut self) {
        self.cursor.publish(self.channel.words.tail);
    }
}

impl Slot<'_> {
    /// Bytes of payload that were reserved.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no payload was reserved.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of the payload's first byte, for a system call that writes there. Valid until the record is published.
    pub const fn as_mut_ptr(&self) -> *mut u8 {
        self.data
    }

    /// Copies `bytes` to `offset` in the payload.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        // SAFETY: a slice is readable for its length.
        unsafe { self.write_raw(offset, bytes.as_ptr(), bytes.len()) }
    }

    /// Copies `len` bytes at `from` to `offset` in the payload.
    ///
    /// # Panics
    /// If they do not fit.
    ///
    /// # Safety
    /// `from..from + len` must be readable and must not lie in this ring.
    pub unsafe fn write_raw(&mut self, offset: usize, from: *const u8, len: usize) {
        assert!(offset <= self.len && len <= self.len - offset);
        // SAFETY: `reserve` made sure that `self.len` bytes at `data` lie in the ring and belong to this producer; the
        // assertion keeps within them. The caller vouches for the source.
        unsafe { ptr::copy_nonoverlapping(from, self.data.add(offset), len) }
    }
}

/// The reading side.
pub struct Consumer<'m, 'c> {
    channel: Channel<'m>,
    cursor: &'c mut ConsumerCursor,
}

/// A record that was read: its header, copied and checked, and where its payload lies.
#[derive(Clone, Copy, Debug)]
pub struct Message<'m> {
    /// The header. `len` has been checked against the ring.
    pub record: Record,
    /// Position behind the record, for [`Consumer::rewind`].
    pub end: u64,
    data: *const u8,
    memory: PhantomData<&'m [u8]>,
}

impl<'m> Message<'m> {
    /// Address of the payload's first byte; `record.len` bytes are readable until the record is released.
    pub const fn as_ptr(&self) -> *const u8 {
        self.data
    }

    /// Copies payload bytes from `offset` on into `to`.
    ///
    /// # Panics
    /// If the payload is shorter.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        // SAFETY: a unique slice is writable for its length.
        unsafe { self.read_raw(offset, to.as_mut_ptr(), to.len()) }
    }

    /// Copies `len` payload bytes from `offset` on to `to`.
    ///
    /// # Panics
    /// If the payload is shorter.
    ///
    /// # Safety
    /// `to..to + len` must be writable and must not lie in this ring.
    pub unsafe fn read_raw(&self, offset: usize, to: *mut u8, len: usize) {
        let have = self.record.len as usize;
        assert!(offset <= have && len <= have - offset);
        // SAFETY: `next` checked that `record.len` bytes at `data` lie within the ring; the assertion keeps within
        // them. A concurrent writer in another process can only make the copied values arbitrary bytes.
        unsafe { ptr::copy_nonoverlapping(self.data.add(offset), to, len) }
    }
}

impl<'m, 'c> Consumer<'m, 'c> {
    /// Joins channel and cursor. `cursor.head` must be the position that was last released, or 0 on a new ring. It is
    /// rounded down like [`Producer::new`]'s.
    pub fn new(channel: Channel<'m>, cursor: &'c mut ConsumerCursor) -> Self {
        cursor.head &= !(ALIGN as u64 - 1);
        Consumer { channel, cursor }
    }

    /// The next record, or `None` when there is none. Takes it: the next call returns the one behind it. Its bytes stay
    /// until they are released. Looks at two headers at most, whatever the producer publishes meanwhile.
    ///
    /// # Errors
    /// What the producer wrote cannot be right. The ring is of no use any more.
    #[allow(
        clippy::should_implement_trait,
        reason = "it is no iterator: it can fail, and rings are not drained by for"
    )]
    pub fn next(&mut self) -> Result<Option<Message<'m>>, Corrupt> {
        let Some((mut position, mut record)) = self.peek()? else { return Ok(None) };
        if record.flags & flags::PAD != 0 {
            // Padding fills the ring to its end, and a record follows it: a chain of paddings would be work without end.
            let end = position.wrapping_add(Record::footprint(record.len as usize) as u64);
            if self.channel.offset(self.cursor.base, end) != 0 {
                return Err(Corrupt::Padding { position });
            }
            self.cursor.head = end;
            let Some(behind) = self.peek()? else { return Ok(None) };
            (position, record) = behind;
            if record.flags & flags::PAD != 0 {
                return Err(Corrupt::Padding { position });
            }
        }
        if record.len as usize > MAX_PAYLOAD {
            return Err(Corrupt::Length { position, len: record.len });
        }
        self.cursor.head = position.wrapping_add(Record::footprint(record.len as usize) as u64);
        let data =
            self.channel.at(self.channel.offset(self.cursor.base, position)).wrapping_add(ALIGN).cast_const();
        Ok(Some(Message { record, end: self.cursor.head, data, memory: PhantomData }))
    }

    /// Position and header of the record at the head, which lies within what is published and before the ring's end.
    fn peek(&mut self) -> Result<Option<(u64, Record)>, Corrupt> {
        let Words { tail, base, .. } = self.channel.words;
        let available = self.cursor.available(tail, base, self.channel.size)?;
        if available == 0 {
            return Ok(None);
        }
        let position = self.cursor.head;
        let offset = self.channel.offset(self.cursor.base, position);
        let record = self.channel.read_record(offset);
        let need = Record::footprint(record.len as usize) as u64;
        if need > available || need > self.channel.size - offset {
            return Err(Corrupt::Length { position, len: record.len });
        }
        Ok(Some((position, record)))
    }

    /// Gives everything taken so far back to the producer.
    pub fn release(&mut self) {
        self.cursor.release(self.channel.words.head);
    }

    /// Goes back to `position`: what was taken behind it is returned again by [`Consumer::next`]. `position` must be the
    /// last one released or the [`Message::end`] of a record taken since.
    pub fn rewind(&mut self, position: u64) {
        self.cursor.head = position & !(ALIGN as u64 - 1);
    }
}
