//! The allocator of the system.

/// Gives memory that is free to the system, where the allocator keeps it otherwise: glibc returns only
/// what lies at the end of its heap, and one small live block there holds back megabytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn trim() {
    #[expect(unsafe_code, reason = "malloc_trim has no safe form")]
    // SAFETY: it may be called at any time by any thread, and touches no block that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators do so by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn trim() {}
