//! Where streams lie. A place that a stream has left is made ready for the next where it is, so that nothing of it is moved.

use super::stream::Stream;
use super::wire::Wire;

/// Streams by their places.
pub(super) struct Table<W: Wire> {
    /// A free place has a stream with id 0, which holds nothing.
    places: Vec<Stream<W>>,
    free: Vec<u32>,
}

impl<W: Wire> Default for Table<W> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<W: Wire> Table<W> {
    /// Streams.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Places, taken and free.
    pub fn capacity(&self) -> usize {
        self.places.capacity()
    }

    /// What lies there; perhaps another stream than was once, or none.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut Stream<W>> {
        self.places.get_mut(index)
    }

    pub fn iter(&self) -> impl Iterator<Item = (usize, &Stream<W>)> {
        self.places.iter().enumerate().filter(|(_, s)| s.id != 0)
    }

    /// A place for a new stream, and the stream.
    pub fn insert(&mut self, id: u32, send_window: u32) -> (usize, &mut Stream<W>) {
        let index = match self.free.pop() {
            Some(index) => index as usize,
            None => {
                self.places.push(Stream::empty());
                self.places.len() - 1
            }
        };
        let stream = &mut self.places[index];
        stream.begin(id, send_window);
        (index, stream)
    }

    /// Frees a place that is taken.
    pub fn remove(&mut self, index: usize) {
        self.places[index].clear();
        self.free.push(u32::try_from(index).expect("as many streams as the protocol allows"));
    }
}
