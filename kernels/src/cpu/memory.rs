//! Results that are written once, by several threads, into memory that was not zeroed before.

use std::mem::MaybeUninit;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::math::Short;

pub(crate) fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // Bytes; what is larger has its own mapping all the same.
        const LARGE: libc::c_int = 1 << 30;
        // What older ones take at most.
        const LARGE_BEFORE: libc::c_int = 32 << 20;
        // Those of a thread's own arena are 64 MiB at most, and what is larger is mapped anew each time.
        const ARENAS: libc::c_int = 1;
        // SAFETY: `mallopt` takes two numbers, touches nothing but the allocator's own settings, and holds the allocator's lock meanwhile. It
        // gives 0 for a value that it does not take, and then has changed nothing.
        unsafe {
            if libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) == 0 {
                libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BEFORE);
            }
            libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
            libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        }
    }
}

/// Floats that nothing uses at the moment, of any values: as many vectors as were ever in use at once.
struct Spare(Vec<Vec<f32>>);

impl Spare {
    /// The shortest of at least `len` floats. Where there is none, the longest gives way, so that there are not more and more of them.
    fn take(&mut self, len: usize) -> Option<Vec<f32>> {
        let all = 0..self.0.len();
        let fitting = all.clone().filter(|&at| self.0[at].len() >= len);
        if let Some(at) = fitting.min_by_key(|&at| self.0[at].len()) {
            return Some(self.0.swap_remove(at));
        }
        let longest = all.max_by_key(|&at| self.0[at].len())?;
        self.0.swap_remove(longest);
        None
    }
}

static SPARE: Mutex<Spare> = Mutex::new(Spare(Vec::new()));

fn spare() -> MutexGuard<'static, Spare> {
    // Whoever panicked meanwhile left whole vectors behind.
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `len` floats of any values, or more.
pub(crate) fn take_spare(len: usize) -> Vec<f32> {
    let found = spare().take(len);
    found.unwrap_or_else(|| {
        let mut floats = reserve(len);
        floats.resize(len, 0.0);
        floats
    })
}

pub(crate) fn put_spare(floats: Vec<f32>) {
    spare().0.push(floats);
}

pub(crate) fn return_freed_memory() {
    spare().0.clear();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` gives back pages that no allocation lies in, and holds the allocator's locks meanwhile.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// An empty vector with room for `len` floats, on large pages where the system has them: a convolution's passes over its transformed input spend
/// a tenth of their time on finding small ones.
fn reserve(len: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(len);
    #[cfg(target_os = "linux")]
    {
        // Bytes of a large page of x86-64, and of ARM with the usual small ones.
        const PAGE: usize = 2 << 20;
        let room = out.spare_capacity_mut();
        let first = room.as_mut_ptr().cast::<u8>();
        let skip = first.align_offset(PAGE);
        let whole = (size_of_val(room).saturating_sub(skip)) / PAGE * PAGE;
        if whole > 0 {
            // SAFETY: the range begins and ends in the vector's own memory, which is mapped. The advice changes which pages the system lays under it,
            // never its contents; where the system knows no such advice it does nothing and says so, which is no error here.
            unsafe { libc::madvise(first.add(skip).cast(), whole, libc::MADV_HUGEPAGE) };
        }
    }
    out
}

/// A vector of `len` floats, in chunks of `chunk` that `task` writes in parallel. It gets the index of its chunk, and gives back the chunk.
///
/// # Panics
/// If a task gives back anything but its own chunk, whole.
pub(crate) fn build(
    len: usize,
    chunk: usize,
    task: impl Fn(usize, &mut [MaybeUninit<f32>]) -> &mut [f32] + Sync,
) -> Vec<f32> {
    build_beside(len, chunk, |index, out| (task(index, out), ())).0
}

/// As [`build`], with what each task found beside, in their order.
///
/// # Panics
/// If a task gives back anything but its own chunk, whole.
pub(crate) fn build_beside<T: Send>(
    len: usize,
    chunk: usize,
    task: impl Fn(usize, &mut [MaybeUninit<f32>]) -> (&mut [f32], T) + Sync,
) -> (Vec<f32>, Vec<T>) {
    let mut out = reserve(len);
    let beside = out.spare_capacity_mut()[..len]
        .par_chunks_mut(chunk.max(1))
        .enumerate()
        .map(|(index, chunk)| written(chunk, |chunk| task(index, chunk)))
        .collect();
    // SAFETY: the capacity is at least `len`, and the chunks cover the first `len` elements; `written` made sure that each is written.
    unsafe { out.set_len(len) };
    (out, beside)
}

/// A vector of `len` floats, which `write` writes in whatever order. It gives the number of those that it wrote.
///
/// # Safety
/// `write` counts no element twice.
///
/// # Panics
/// If it did not write all.
pub(crate) unsafe fn build_by(
    len: usize,
    write: impl FnOnce(&mut [MaybeUninit<f32>]) -> usize,
) -> Vec<f32> {
    let mut out = reserve(len);
    let count = write(&mut out.spare_capacity_mut()[..len]);
    assert_eq!(count, len, "a part of the output was not written");
    // SAFETY: the capacity is at least `len`, and as many elements were written, each counted once, as the caller says.
    unsafe { out.set_len(len) };
    out
}

/// Writes every part of `width` elements by `task`, which gets its index and gives it back.
///
/// # Panics
/// If a task gives back anything but its own part, whole.
#[inline(always)]
pub(crate) fn fill_parts(
    out: &mut [MaybeUninit<f32>],
    width: usize,
    mut task: impl FnMut(usize, &mut [MaybeUninit<f32>]) -> &mut [f32],
) -> &mut [f32] {
    for (index, part) in out.chunks_mut(width).enumerate() {
        written(
            part,
            #[inline(always)]
            |part| (task(index, part), ()),
        );
    }
    // SAFETY: the parts cover the slice, and `written` made sure that each is written.
    unsafe { out.assume_init_mut() }
}

/// Makes sure that `task` writes every element: as proof it gives back the same memory as initialised floats.
#[inline(always)]
fn written<T>(
    part: &mut [MaybeUninit<f32>],
    task: impl FnOnce(&mut [MaybeUninit<f32>]) -> (&mut [f32], T),
) -> T {
    let (start, len) = (part.as_ptr().cast::<f32>(), part.len());
    let (done, beside) = task(part);
    assert!(
        done.as_ptr() == start && done.len() == len,
        "a part of the output was not written"
    );
    beside
}

/// Writes `value(index)` to every element.
#[inline(always)]
pub(crate) fn fill(out: &mut [MaybeUninit<f32>], value: impl Fn(usize) -> f32) -> &mut [f32] {
    for (index, out) in out.iter_mut().enumerate() {
        out.write(value(index));
    }
    // SAFETY: the loop has just written every element.
    unsafe { out.assume_init_mut() }
}

/// 16-bit floats as f32.
pub(crate) fn widen<T: Short>(values: &[T]) -> Vec<f32> {
    const CHUNK: usize = 1 << 14;
    /// What stays in the first-level cache from one pass to the next.
    const BLOCK: usize = 1 << 10;
    build(values.len(), CHUNK, |chunk, out| {
        let values = &values[chunk * CHUNK..][..out.len()];
        fill_parts(out, BLOCK, |block, out| {
            let out = fill(out, |_| 0.0);
            T::widen(&values[block * BLOCK..][..out.len()], out);
            out
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_by_parts_is_whole() {
        let write = |out: &mut [MaybeUninit<f32>]| {
            let (even, odd) = out.split_at_mut(3);
            fill(odd, |i| i as f32).len() + fill(even, |i| -(i as f32)).len()
        };
        // SAFETY: both halves are counted once.
        assert_eq!(unsafe { build_by(5, write) }, [0.0, -1.0, -2.0, 0.0, 1.0]);
    }

    #[test]
    #[should_panic(expected = "a part of the output was not written")]
    fn what_was_not_written_is_not_given_out() {
        // SAFETY: nothing is counted twice.
        unsafe { build_by(5, |out| fill(&mut out[..4], |_| 0.0).len()) };
    }

    #[test]
    fn parts_come_in_their_order_with_what_was_found_beside() {
        let (values, found) = build_beside(7, 3, |index, out| {
            let count = out.len();
            (fill(out, |i| (10 * index + i) as f32), count)
        });
        assert_eq!(values, [0.0, 1.0, 2.0, 10.0, 11.0, 12.0, 20.0]);
        assert_eq!(found, [3, 3, 1]);
    }

    #[test]
    fn spare_floats_are_used_again_and_do_not_pile_up() {
        let mut spare = Spare([10, 30, 20].map(|len| vec![1.0; len]).to_vec());
        assert_eq!(spare.take(15).unwrap().len(), 20);
        assert_eq!(spare.take(30).unwrap().len(), 30);
        assert_eq!(spare.take(15), None);
        assert_eq!(spare.0.len(), 0);
    }
}
