//! Memory for content that comes in: blocks are used again while a transfer goes on, and given back when it ends. At the end what
//! moves bytes within it.
//!
//! The allocator of a static program, musl's, has nearly every buffer of a transfer from the kernel, page by page, and gives it back
//! when it is freed: for 256 MiB ten thousand calls, and more than a third of the agent's processor time. Others keep what they had: with
//! dlmalloc the agent was 5.7 MiB large before its first job of 10 MiB and 12 to 15 MiB for ever after, with mimalloc 14 and 38.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ptr::null_mut,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Smaller blocks are left to the system's allocator, which keeps them itself; larger ones are rare.
const SMALLEST: usize = 4 << 10;
/// See [`SMALLEST`].
const LARGEST: usize = 1 << 20;
/// The most that is kept (bytes): all of what is on its way, as three streams bring it, or waits to be written. With half of it a third of
/// the content came into memory that was had from the kernel for it, and a tenth of the processor time went there.
const MOST: usize = 16 << 20;
/// The power of two above which the first class begins, and how many classes there are: four from each power to the next.
const FIRST: u32 = (SMALLEST - 1).ilog2();
const CLASSES: usize = 4 * ((LARGEST - 1).ilog2() - FIRST + 1) as usize;
/// Of every block that is kept or may be.
const ALIGN: usize = 16;

/// How many transfers go on.
static TRANSFERS: AtomicUsize = AtomicUsize::new(0);
static KEPT: Mutex<Kept> = Mutex::new(Kept { first: [null_mut(); CLASSES], bytes: 0 });

/// Freed blocks of each class: the first one, in which the address of the next one stands, and so on.
struct Kept {
    first: [*mut Block; CLASSES],
    bytes: usize,
}

struct Block {
    next: *mut Block,
}

// SAFETY: the blocks belong to nobody else, whichever thread freed them.
#[allow(unsafe_code)]
unsafe impl Send for Kept {}

fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While one of these is held, blocks that are freed are kept to be used again. With the last one they are given back.
#[derive(Debug)]
pub struct Transfer(());

impl Transfer {
    /// A transfer begins.
    #[must_use]
    pub fn begin() -> Transfer {
        TRANSFERS.fetch_add(1, Ordering::Relaxed);
        Transfer(())
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if TRANSFERS.fetch_sub(1, Ordering::Relaxed) == 1 {
            give_back();
        }
    }
}

fn give_back() {
    let first = {
        let mut kept = kept();
        kept.bytes = 0;
        std::mem::replace(&mut kept.first, [null_mut(); CLASSES])
    };
    for (class, mut at) in first.into_iter().enumerate() {
        while !at.is_null() {
            // SAFETY: each is a block of this class that the system's allocator gave and that nobody uses; what it says of the next
            // one is read before it is gone.
            #[allow(unsafe_code)]
            unsafe {
                let next = (*at).next;
                System.dealloc(at.cast(), layout_of(class));
                at = next;
            }
        }
    }
}

/// The class of blocks from which a layout is served: the smallest that holds it, at most a quarter larger.
fn class_of(layout: Layout) -> Option<usize> {
    let size = layout.size();
    if layout.align() > ALIGN || !(SMALLEST..=LARGEST).contains(&size) {
        return None;
    }
    let power = (size - 1).ilog2();
    let quarters = size.div_ceil(1 << (power - 2));
    Some(4 * (power - FIRST) as usize + quarters - 5)
}

/// What the system's allocator is asked for.
fn layout_of(class: usize) -> Layout {
    let (power, quarters) = (FIRST + (class / 4) as u32, class % 4 + 5);
    Layout::from_size_align(quarters << (power - 2), ALIGN).unwrap_or(Layout::new::<Block>())
}

/// A block of this class that was kept; null if there is none.
fn take(class: usize) -> *mut u8 {
    let mut kept = kept();
    let block = kept.first[class];
    if !block.is_null() {
        // SAFETY: a kept block begins with the address of the next one.
        #[allow(unsafe_code)]
        let next = unsafe { (*block).next };
        kept.first[class] = next;
        kept.bytes -= layout_of(class).size();
    }
    block.cast()
}

/// Keeps a block of this class, unless that is not wanted now.
fn keep(class: usize, block: *mut u8) -> bool {
    if TRANSFERS.load(Ordering::Relaxed) == 0 {
        return false;
    }
    let mut kept = kept();
    let bytes = kept.bytes + layout_of(class).size();
    // Once more: the last transfer may just have ended, and given back what there was.
    if bytes > MOST || TRANSFERS.load(Ordering::Relaxed) == 0 {
        return false;
    }
    let block: *mut Block = block.cast();
    // SAFETY: whoever freed it uses it no more, and it has room for an address and its alignment.
    #[allow(unsafe_code)]
    unsafe {
        block.write(Block { next: kept.first[class] });
    }
    kept.first[class] = block;
    kept.bytes = bytes;
    true
}

/// The system's allocator, with [`Transfer`]s.
#[derive(Debug)]
pub struct Keeping;

// SAFETY: every block comes from the system's allocator with the layout of its class, or its own where it has none, and goes back with
// the same one, which follows from the caller's layout alone. A block is kept only after it was freed, and is in one list at a time.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Keeping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class_of(layout) else { return unsafe { System.alloc(layout) } };
        let block = take(class);
        if block.is_null() { unsafe { System.alloc(layout_of(class)) } } else { block }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match class_of(layout) {
            Some(class) if keep(class, block) => {}
            Some(class) => unsafe { System.dealloc(block, layout_of(class)) },
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class_of(layout) else { return unsafe { System.alloc_zeroed(layout) } };
        let block = take(class);
        if block.is_null() {
            return unsafe { System.alloc_zeroed(layout_of(class)) };
        }
        unsafe { block.write_bytes(0, layout.size()) };
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // The caller promises that this is a layout.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (class_of(layout), class_of(wanted)) {
            (None, None) => unsafe { System.realloc(block, layout, size) },
            (here, there) if here == there => block,
            _ => unsafe {
                let new = self.alloc(wanted);
                if !new.is_null() {
                    new.copy_from_nonoverlapping(block, layout.size().min(size));
                    self.dealloc(block, layout);
                }
                new
            },
        }
    }
}

/// Musl's own moves byte by byte from the end whenever the goal is not lower and overlaps; so it does also where all stays where it is,
/// and that is what TLS asks for with each record that has come in part: a twelfth of the processor time of a transfer's network side.
#[cfg(all(target_arch = "x86_64", target_env = "musl"))]
#[allow(unsafe_code)]
// SAFETY: it does what the C standard says of this name.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    unsafe { move_bytes(to, from, count) };
    to
}

/// Moves bytes to where they may overlap with where they were. Not by a loop, nor by Rust's own copy: the compiler may make a call of
/// `memmove` of either.
///
/// # Safety
///
/// `from` may be read and `to` written for `count` bytes.
#[cfg(all(target_arch = "x86_64", any(target_env = "musl", test)))]
#[allow(unsafe_code)]
unsafe fn move_bytes(to: *mut u8, from: *const u8, count: usize) {
    use std::arch::asm;
    match (to as usize).wrapping_sub(from as usize) {
        0 => {}
        // SAFETY: within both, from the last byte to the first: what is written lies above all that is still to be read.
        above if above < count => unsafe {
            let (to, from) = (to.add(count - 1), from.add(count - 1));
            asm!("std", "rep movsb", "cld", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _, options(nostack));
        },
        // SAFETY: within both, from the first byte to the last one: what is written lies below all that is still to be read.
        _ => unsafe {
            asm!("rep movsq", "mov rcx, {rest}", "rep movsb", rest = in(reg) count % 8, inout("rcx") count / 8 => _,
                inout("rdi") to => _, inout("rsi") from => _, options(nostack));
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_holds_what_it_serves_and_is_at_most_a_quarter_larger() {
        for size in SMALLEST..=LARGEST {
            let class = class_of(Layout::from_size_align(size, 8).unwrap()).unwrap();
            let whole = layout_of(class).size();
            assert!(class < CLASSES && whole >= size && whole <= size + size / 4, "{size} is served from {whole}");
            assert_eq!(class_of(layout_of(class)), Some(class), "{size}");
        }
        for (size, align) in [(SMALLEST - 1, 8), (LARGEST + 1, 8), (SMALLEST, 64)] {
            assert_eq!(class_of(Layout::from_size_align(size, align).unwrap()), None, "{size} {align}");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    #[allow(unsafe_code)]
    fn bytes_are_moved_whole_however_they_overlap() {
        let fresh = || (0..400).map(|n| (n * 7 + n / 256) as u8).collect::<Vec<u8>>();
        for count in [0, 1, 7, 15, 16, 17, 31, 32, 33, 48, 100, 150] {
            for (from, to) in (0..200).map(|to| (100, to)).chain([(0, 250), (250, 0)]) {
                let (mut moved, mut right) = (fresh(), fresh());
                right.copy_within(from..from + count, to);
                let start = moved.as_mut_ptr();
                // SAFETY: both are within its 400 bytes.
                unsafe { move_bytes(start.add(to), start.add(from), count) };
                assert_eq!(moved, right, "{count} bytes from {from} to {to}");
            }
        }
    }

    // One test, for there is one store of blocks. Nothing else here is allocated by it.
    #[test]
    #[allow(unsafe_code)]
    fn blocks_are_used_again_while_content_comes_and_given_back_when_it_ends() {
        let layout = |size| Layout::from_size_align(size, 1).unwrap();
        // SAFETY: each block is used within its layout, and freed once with it.
        unsafe {
            let transfer = Transfer::begin();
            let another = Transfer::begin();
            let first = Keeping.alloc(layout(100_000));
            first.write_bytes(7, 100_000);
            Keeping.dealloc(first, layout(100_000));
            // Of the same class, and zero where that is asked for, whatever was in it.
            let again = Keeping.alloc_zeroed(layout(105_000));
            assert_eq!(again, first);
            assert!(std::slice::from_raw_parts(again, 105_000).iter().all(|byte| *byte == 0));
            // What it holds comes along, wherever it goes: within its class, to a larger and to none, and back.
            let mut block = again;
            block.write_bytes(9, 5_000);
            for (from, to) in [(105_000, 114_000), (114_000, 300_000), (300_000, 3 << 20), (3 << 20, 6_000), (6_000, 5_000)] {
                block = Keeping.realloc(block, layout(from), to);
                assert!(std::slice::from_raw_parts(block, 5_000).iter().all(|byte| *byte == 9), "from {from} to {to}");
            }
            drop(another);
            Keeping.dealloc(block, layout(5_000));
            assert!((1..=MOST).contains(&kept().bytes), "one transfer goes on");
            let many: Vec<*mut u8> = (0..40).map(|_| Keeping.alloc(layout(LARGEST))).collect();
            many.into_iter().for_each(|block| Keeping.dealloc(block, layout(LARGEST)));
            assert!(kept().bytes <= MOST, "never more than that");
            drop(transfer);
        }
        // Other tests have transfers, too: the last of them gives all back.
        let given_back = || kept().bytes == 0 && kept().first.iter().all(|block| block.is_null());
        while TRANSFERS.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
        assert!(given_back());
    }
}
