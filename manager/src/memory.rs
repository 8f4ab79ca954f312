//! How the process keeps memory that it is going to need again at once.

/// Blocks from this size on are the kernel's own, and go back to it when they are freed (bytes): larger than what is sent at a time.
#[cfg(target_env = "gnu")]
const OWN: libc::c_int = 4 << 20;
/// So much that is free at the end of a heap stays (bytes).
#[cfg(target_env = "gnu")]
const SPARE: libc::c_int = 16 << 20;

/// Has the C library keep the buffers of messages for the next ones. To begin with, before there are threads.
///
/// It gives the kernel back what is freed in pieces of more than 128 KiB: with messages of 256 KiB each byte that is sent lies in a
/// page that has just been asked for and filled with zeros.
pub(crate) fn keep() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets two numbers of the allocator, which checks them; nobody else runs yet.
    #[allow(unsafe_code)]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN);
        libc::mallopt(libc::M_TRIM_THRESHOLD, SPARE);
    }
}
