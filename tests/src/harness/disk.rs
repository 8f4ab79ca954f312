//! A small disk: a file system in memory at a folder of a test, which fills up for real.

use super::cleanup;
use super::wait::{PATIENCE, wait_until};
use crate::tools;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A file system of its own at a folder; gone, with all that is on it, when this is dropped or the test process ends in any way.
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
}

fn works(program: &str, arguments: &[&str], folder: &Path) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).arg(folder).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl SmallDisk {
    /// So many MiB at this folder; what is in the folder goes along. None, with the reason said, where nobody may mount.
    ///
    /// # Panics
    ///
    /// When what is in the folder can't be copied.
    pub fn at(folder: &Path, mib: u32) -> Option<SmallDisk> {
        let aside = folder.with_extension("aside");
        let mode = fs_err::metadata(folder).expect("the folder is there").permissions().mode() & 0o7777;
        fs_err::rename(folder, &aside).expect("it can be moved aside");
        fs_err::create_dir(folder).expect("a folder can be made");
        cleanup::remember_mount(folder);
        let mounted = works("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m,mode={mode:o}"), "tmpfs"], folder);
        assert!(works("cp", &["-aT", &aside.to_string_lossy()], folder), "what is in {} can't be copied", folder.display());
        fs_err::remove_dir_all(&aside).expect("it can be removed");
        let disk = SmallDisk { folder: folder.to_owned() };
        (mounted || !tools::skip("needs root, to mount a small file system")).then_some(disk)
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }

    /// Takes all but so many bytes (0: all of it; else whole pages). Others may write meanwhile: then there is less to take.
    ///
    /// # Panics
    ///
    /// When that fails for another reason than a full disk.
    pub fn fill(&self, leave: u64) {
        let file = fs_err::OpenOptions::new().create(true).append(true).open(self.filler()).expect("a file can be made");
        let mut taken = 0;
        wait_until("the disk to be full", PATIENCE, || {
            let stat = rustix::fs::statvfs(&self.folder).expect("it is mounted");
            let take = (stat.f_bavail * stat.f_frsize).saturating_sub(leave);
            if take == 0 {
                return true;
            }
            match rustix::fs::fallocate(file.file(), rustix::fs::FallocateFlags::empty(), taken, take) {
                Ok(()) => taken += take,
                Err(rustix::io::Errno::NOSPC) => {}
                Err(e) => panic!("the disk can't be filled: {e}"),
            }
            false
        });
    }

    /// Gives back what [`fill`](SmallDisk::fill) took.
    ///
    /// # Panics
    ///
    /// When it took nothing.
    pub fn make_room(&self) {
        fs_err::remove_file(self.filler()).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        works("umount", &["-l"], &self.folder);
    }
}
