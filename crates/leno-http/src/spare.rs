//! What the next request needs and the last one had: vectors and boxes that go back to their thread's stock, and blocks from
//! which small pieces are cut. In the steady state nothing of it is allocated.
//!
//! Every stock is bounded, so that a burst's memory is given back and not hoarded.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::thread::LocalKey;

use bytes::{Bytes, BytesMut};

/// Things of one kind that a thread keeps: as many as are let go in one turn of a busy worker.
const STOCK: usize = 128;
/// Bytes of a vector that is worth keeping; larger ones are the exception and their memory goes back.
const KEPT_BYTES: usize = 2048;

/// What is kept in a stock of its own.
pub(crate) trait Stocked: Sized + 'static {
    /// The thread's stock.
    fn stock() -> &'static LocalKey<RefCell<Vec<Self>>>;
}

/// Something that was let go, if there is one.
pub(crate) fn take<T: Stocked>() -> Option<T> {
    // A thread that ends has no stock any more.
    T::stock().try_with(|stock| stock.borrow_mut().pop()).ok().flatten()
}

/// Lets something go. It must hold nothing: what it held was dropped before.
pub(crate) fn give<T: Stocked>(item: T) {
    let mut item = Some(item);
    let _ = T::stock().try_with(|stock| {
        let mut stock = stock.borrow_mut();
        if stock.len() < STOCK {
            stock.extend(item.take());
        }
    });
}

/// Declares the stock of a type.
macro_rules! stock {
    ($name:ident: $item:ty) => {
        thread_local! {
            static $name: std::cell::RefCell<Vec<$item>> = const { std::cell::RefCell::new(Vec::new()) };
        }
        impl crate::spare::Stocked for $item {
            fn stock() -> &'static std::thread::LocalKey<std::cell::RefCell<Vec<Self>>> {
                &$name
            }
        }
    };
}
pub(crate) use stock;

stock!(BYTES: Vec<u8>);

/// A vector whose memory comes from the stock and goes back to it.
pub(crate) struct SpareVec<T: Copy + 'static>(Vec<T>)
where
    Vec<T>: Stocked;

impl<T: Copy> SpareVec<T>
where
    Vec<T>: Stocked,
{
    /// With memory from the stock, if there is any; else with room for `room`.
    pub fn with_room(room: usize) -> Self {
        Self(take().unwrap_or_else(|| Vec::with_capacity(room)))
    }

    /// Gives the memory back to the stock.
    fn keep(&mut self) {
        let mut vector = std::mem::take(&mut self.0);
        if vector.capacity() * size_of::<T>() <= KEPT_BYTES {
            vector.clear();
            give(vector);
        }
    }

    /// Before the first element: memory from the stock.
    #[inline]
    pub fn prepare(&mut self) {
        if self.0.capacity() == 0
            && let Some(spare) = take()
        {
            self.0 = spare;
        }
    }
}

impl<T: Copy> Default for SpareVec<T>
where
    Vec<T>: Stocked,
{
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy> Clone for SpareVec<T>
where
    Vec<T>: Stocked,
{
    fn clone(&self) -> Self {
        if self.0.is_empty() {
            return Self::default();
        }
        let mut copy = Self::with_room(self.0.len());
        copy.0.extend_from_slice(&self.0);
        copy
    }
}

impl<T: Copy> Deref for SpareVec<T>
where
    Vec<T>: Stocked,
{
    type Target = Vec<T>;
    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

impl<T: Copy> DerefMut for SpareVec<T>
where
    Vec<T>: Stocked,
{
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.0
    }
}

impl<T: Copy> Drop for SpareVec<T>
where
    Vec<T>: Stocked,
{
    #[inline]
    fn drop(&mut self) {
        // Most have never held anything.
        if self.0.capacity() > 0 {
            self.keep();
        }
    }
}

/// Bytes of a block from which pieces are cut. A piece that lives long holds all of its block, so blocks are small.
const BLOCK: usize = 4096;
/// Larger pieces are cut from the blocks that sockets are read into, or get memory of their own.
pub(crate) const LARGEST_PIECE: usize = 1536;
/// Blocks that a thread keeps: what is read for 64 requests at a time.
const BLOCKS: usize = 32;
/// Blocks that are looked at before another one is allocated.
const LOOKS: usize = 4;

thread_local! {
    static CUT: RefCell<VecDeque<BytesMut>> = const { RefCell::new(VecDeque::new()) };
}

/// A copy of `bytes`, cut from a block that earlier pieces have left. Not for use within [`with_block`] if it may be large.
pub(crate) fn copy(bytes: &[u8]) -> Bytes {
    if bytes.is_empty() || bytes.len() > LEAST_ROOM {
        return Bytes::copy_from_slice(bytes);
    }
    if bytes.len() > LARGEST_PIECE {
        // A frame of DATA has room in each of these.
        return with_block(|block| cut(block, bytes)).unwrap_or_else(|| Bytes::copy_from_slice(bytes));
    }
    CUT.with(|blocks| {
        let mut blocks = blocks.borrow_mut();
        for _ in 0..LOOKS.min(blocks.len()) {
            // The front is where was cut last. Others come up oldest first.
            if let Some(front) = blocks.front_mut()
                && front.try_reclaim(bytes.len())
            {
                return cut(front, bytes);
            }
            blocks.rotate_left(1);
        }
        if blocks.len() >= BLOCKS {
            blocks.pop_back();
        }
        blocks.push_front(BytesMut::with_capacity(BLOCK));
        let front = blocks.front_mut().expect("pushed just now");
        cut(front, bytes)
    })
}

/// Bytes of a block that sockets are read into.
pub(crate) const READ_BLOCK: usize = 64 * 1024;
/// A block with less room than this is not read into until its pieces are gone: short reads cost more calls.
const LEAST_ROOM: usize = 20 * 1024;
/// Blocks for reading that a thread has at most; beyond them, what is read is copied. A dozen reads of 16 KiB: more would stay
/// behind after every burst.
const READ_BLOCKS: usize = 4;

thread_local! {
    static READ: RefCell<VecDeque<BytesMut>> = const { RefCell::new(VecDeque::new()) };
}

/// Lends an empty block with room for [`LEAST_ROOM`] bytes; `None` while the pieces of all of them are in use. Must not be nested.
pub(crate) fn with_block<T>(work: impl FnOnce(&mut BytesMut) -> T) -> Option<T> {
    READ.with(|blocks| {
        let mut blocks = blocks.borrow_mut();
        for _ in 0..LOOKS.min(blocks.len()) {
            // The front is where was read last. Others come up oldest first.
            if let Some(front) = blocks.front_mut()
                && (front.capacity() >= LEAST_ROOM || front.try_reclaim(READ_BLOCK))
            {
                return Some(work(front));
            }
            blocks.rotate_left(1);
        }
        if blocks.len() >= READ_BLOCKS {
            return None;
        }
        blocks.push_front(BytesMut::with_capacity(READ_BLOCK));
        blocks.front_mut().map(work)
    })
}

fn cut(block: &mut BytesMut, bytes: &[u8]) -> Bytes {
    block.extend_from_slice(bytes);
    block.split().freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_comes_back_empty() {
        let mut first = SpareVec::<u8>::with_room(100);
        first.extend_from_slice(b"secret");
        let (at, room) = (first.as_ptr(), first.capacity());
        drop(first);
        let second = SpareVec::<u8>::with_room(1);
        assert_eq!((second.as_ptr(), second.capacity(), second.len()), (at, room, 0));
        let third = second.clone();
        assert_eq!(third.capacity(), 0, "an empty copy needs no memory");
    }

    #[test]
    fn what_is_large_is_not_kept() {
        drop(SpareVec::<u8>::with_room(KEPT_BYTES + 1));
        assert!(take::<Vec<u8>>().is_none());
    }

    #[test]
    fn blocks_for_reading_are_bounded_and_used_again() {
        let read = |length: usize| {
            with_block(|block| {
                assert!(block.is_empty() && block.capacity() >= LEAST_ROOM);
                block.resize(length, b'x');
                block.split().freeze()
            })
        };
        let blocks = || READ.with(|blocks| blocks.borrow().len());
        // One after the other: one block, which the last of them fills.
        for _ in 0..99 {
            assert_eq!(read(16 * 1024).unwrap().len(), 16 * 1024);
        }
        assert_eq!(blocks(), 1);
        // Many at a time: as many blocks as there may be, and then none.
        let held: Vec<Bytes> = std::iter::from_fn(|| read(16 * 1024)).take(1000).collect();
        assert_eq!((blocks(), held.len()), (READ_BLOCKS, READ_BLOCKS * 3));
        assert!(read(1).is_none());
        drop(held);
        assert!(read(READ_BLOCK).is_some_and(|bytes| bytes.len() == READ_BLOCK));
        assert_eq!(blocks(), READ_BLOCKS);
    }

    #[test]
    fn pieces_keep_their_bytes_and_blocks_are_used_again() {
        let pieces: Vec<Bytes> = (0..200_u8).map(|n| copy(&[n; 100])).collect();
        assert!(pieces.iter().zip(0..).all(|(piece, n)| piece[..] == [n; 100]));
        drop(pieces);
        let blocks = || CUT.with(|blocks| blocks.borrow().len());
        let before = blocks();
        for n in 0..10_000_u32 {
            let piece = copy(&n.to_be_bytes());
            assert_eq!(piece[..], n.to_be_bytes());
        }
        assert_eq!(blocks(), before, "nothing new was needed");
        let large: Vec<Bytes> = (0..200).map(|_| copy(&[1; 1500])).collect();
        assert!(blocks() <= BLOCKS && large.len() == 200);
        assert!(copy(&[]).is_empty());
    }
}
