//! Asks the CPU for memory before it is needed, so that nobody waits for it then.

/// Asks for the cache line at the beginning of `memory`, for reading or writing. Does nothing where that isn't possible.
#[inline(always)]
#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "the intrinsic takes any address")
)]
pub(crate) fn prefetch<T>(memory: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which accesses no memory as far as the program can tell, at an address that is valid besides.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(memory).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = memory;
}
