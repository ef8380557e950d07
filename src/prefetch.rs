//! Asks the CPU for memory before it is needed, so that nobody waits for it then.

/// A configuration with more services is large: what a request needs of its service is then seldom in the CPU's caches.
pub(crate) const FEW_SERVICES: usize = 32;
/// One with more endpoints is large as well: what an attempt needs of its endpoint is seldom in the caches.
pub(crate) const FEW_ENDPOINTS: usize = 64;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for the cache line at an address, for reading or writing. Does nothing where that isn't possible.
#[inline(always)]
#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "the intrinsic takes any address")
)]
fn prefetch_line(address: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which accesses no memory as far as the program can tell. Any address will do.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(address)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks for the cache line at the beginning of `memory`.
#[inline(always)]
pub(crate) fn prefetch<T>(memory: &T) {
    prefetch_line(std::ptr::from_ref(memory).addr());
}

/// Asks for all of `memory`.
#[inline(always)]
pub(crate) fn prefetch_all<T>(memory: &T) {
    let address = std::ptr::from_ref(memory).addr();
    prefetch_lines(address - address % LINE, address + size_of::<T>());
}

/// Asks for the lines from `first` up to `end`.
#[inline(always)]
fn prefetch_lines(first: usize, end: usize) {
    for line in (first..end).step_by(LINE) {
        prefetch_line(line);
    }
}

/// A value's place in memory: the address of its first line, plus the number of its lines, for which a line's address has zeros.
///
/// An address only, so that it may outlive the value: to ask for memory that is used for something else does no harm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PrefetchPlace(usize);

impl PrefetchPlace {
    /// The place of a value of fewer than 64 lines. Of a larger one it is the beginning.
    #[inline]
    pub(crate) fn of<T: ?Sized>(value: &T) -> Self {
        let address = std::ptr::from_ref(value).addr();
        let first = address - address % LINE;
        let end = (address + size_of_val(value)).next_multiple_of(LINE);
        Self(first + ((end - first) / LINE).min(LINE - 1))
    }

    /// Asks for the value.
    #[inline]
    pub(crate) fn prefetch(self) {
        self.prefetch_moved(0);
    }

    /// Asks for what is `bytes` further on in memory, a multiple of 64.
    #[inline]
    fn prefetch_moved(self, bytes: usize) {
        let (first, end) = lines(self.0);
        prefetch_lines(first + bytes, end + bytes);
    }
}

/// The place of a part of a shard, of which each worker has its own, one behind the other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PrefetchShard {
    /// The part of the first worker's shard.
    first: PrefetchPlace,
    /// Bytes from one shard to the next.
    stride: usize,
}

impl PrefetchShard {
    /// The place of a part of each of these shards, which begin with a cache line.
    pub(crate) fn of<S, P: ?Sized>(shards: &[S], part: impl Fn(&S) -> &P) -> Self {
        const { assert!(align_of::<S>().is_multiple_of(LINE)) };
        match shards {
            [] => Self::default(),
            [first, ..] => Self {
                first: PrefetchPlace::of(part(first)),
                stride: size_of::<S>(),
            },
        }
    }

    /// Asks for a worker's part.
    #[inline]
    pub(crate) fn prefetch(self, worker: usize) {
        self.first.prefetch_moved(worker * self.stride);
    }
}

/// Places in memory that will be needed together.
///
/// To ask for all of them at once takes little longer than to wait for one, whereas a request that follows the pointers from each to
/// the next waits for one after the other.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct PrefetchList {
    /// From the first on; the rest are empty.
    places: [PrefetchPlace; 32],
}

impl PrefetchList {
    /// Adds a value, if there is room for it.
    pub(crate) fn add<T: ?Sized>(&mut self, value: &T) {
        self.add_start(value, usize::MAX);
    }

    /// As [`Self::add`], but at most the first `bytes` of it.
    pub(crate) fn add_start<T: ?Sized>(&mut self, value: &T, bytes: usize) {
        let address = std::ptr::from_ref(value).addr();
        let bytes = size_of_val(value).min(bytes);
        if bytes == 0 {
            return;
        }
        let (first, end) = (
            address - address % LINE,
            (address + bytes).next_multiple_of(LINE),
        );
        for place in &mut self.places {
            let (other, other_end) = lines(place.0);
            // Next to each other they are one place.
            let (first, end) = match place.0 {
                0 => (first, end),
                _ if first <= other_end && other <= end => (first.min(other), end.max(other_end)),
                _ => continue,
            };
            let number = (end - first) / LINE;
            if number < LINE {
                *place = PrefetchPlace(first + number);
                return;
            }
        }
    }

    /// Asks for all of it.
    #[inline]
    pub(crate) fn prefetch(&self) {
        for place in self.places {
            if place == PrefetchPlace::default() {
                break;
            }
            place.prefetch();
        }
    }

    /// Whether all of a value is in the list.
    #[cfg(test)]
    pub(crate) fn has<T: ?Sized>(&self, value: &T) -> bool {
        let address = std::ptr::from_ref(value).addr();
        let end = address + size_of_val(value);
        let mut places = self.places.iter().map(|place| lines(place.0));
        places.any(|lines| lines.0 <= address && end <= lines.1)
    }
}

/// The address of a place's first line, and that behind its last one.
#[inline]
fn lines(place: usize) -> (usize, usize) {
    let first = place - place % LINE;
    (first, first + place % LINE * LINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(64))]
    struct Lines([[u8; LINE]; 200]);

    #[test]
    fn neighbours_are_one_place() {
        let memory = Lines([[0; LINE]; 200]);
        let mut list = PrefetchList::default();
        list.add(&memory.0[4]);
        list.add(&memory.0[9][60..62]);
        assert_eq!(list.places[2].0, 0);
        assert!(list.has(&memory.0[4]) && list.has(&memory.0[9]));
        assert!(!list.has(&memory.0[5]) && !list.has(&memory.0[3]));
        list.add(&memory.0[5..7]);
        list.add(&memory.0[3]);
        list.add_start(&memory.0[7..], 1);
        assert_eq!(list.places[2].0, 0);
        assert!(list.has(&memory.0[3..8]) && !list.has(&memory.0[8]));
        assert_eq!(list.places[0].0 % LINE, 5);
        list.add(&memory.0[0]);
        assert!(!list.has(&memory.0[2]), "far before all others");
        list.prefetch();
    }

    #[test]
    fn a_place_is_all_lines_of_a_value() {
        let memory = Lines([[0; LINE]; 200]);
        let first = std::ptr::from_ref(&memory).addr();
        for (value, at, number) in [
            (&memory.0[3][..], 3, 1),
            (memory.0[3][63..].as_ref(), 3, 1),
            (memory.0[3..5].as_flattened()[1..].as_ref(), 3, 2),
            (memory.0[3..].as_flattened(), 3, LINE - 1),
            (&memory.0[3][..0], 3, 0),
        ] {
            let place = PrefetchPlace::of(value);
            let start = first + at * LINE;
            assert_eq!(lines(place.0), (start, start + number * LINE));
            place.prefetch();
        }
    }

    #[test]
    fn each_worker_has_a_part_of_its_own() {
        #[repr(align(128))]
        struct Shard([[u8; LINE]; 4]);
        let shards = [(); 3].map(|()| Shard([[0; LINE]; 4]));
        let part = PrefetchShard::of(&shards, |shard| &shard.0[1..3]);
        assert_eq!(part.first, PrefetchPlace::of(&shards[0].0[1..3]));
        assert_eq!(
            lines(part.first.0 + 2 * part.stride),
            lines(PrefetchPlace::of(&shards[2].0[1..3]).0)
        );
        part.prefetch(2);
        let none = PrefetchShard::of(&[] as &[Shard], |shard| &shard.0);
        assert_eq!(none.first, PrefetchPlace::default());
        none.prefetch(2);
    }

    #[test]
    fn what_there_is_no_room_for_is_left_out() {
        let memory = Lines([[0; LINE]; 200]);
        let mut list = PrefetchList::default();
        list.add(&memory.0[0][..0]);
        assert_eq!(list.places[0].0, 0, "nothing is no place");
        list.add(&memory.0[..64]);
        assert_eq!(list.places[0].0, 0, "too many lines");
        list.add(&memory.0[..63]);
        assert!(list.has(&memory.0[..63]));
        (0..40).for_each(|n| list.add(&memory.0[66 + 2 * n]));
        assert!(list.has(&memory.0[66 + 2 * 30]) && !list.has(&memory.0[66 + 2 * 31]));
        list.prefetch();
    }
}
