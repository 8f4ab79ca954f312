//! Trees that are kept for a later attempt: what was only to be fetched lies beside the place where it will be needed, so that
//! whoever installs it has it by a rename. Nothing of it is believed then: it is verified like everything that an earlier run left.

use super::{
    error::{Error, io},
    exchange,
    layout::{Layout, Missing, Spot},
};
use rustix::fs::RenameFlags;
use sutler_base::{AttemptId, Digest, path::InstallPath};

/// The place of what is kept; none if something on the way to it is missing.
fn place(layout: &Layout, directory: Option<&InstallPath>, manifest: &Digest) -> Result<Option<Spot>, Error> {
    // What an item is staged as does not matter: it lies in the same folder.
    let nobody = AttemptId::new(sutler_base::Timestamp::UNIX_EPOCH, [0; 16]);
    let staging = layout.staging(directory, &nobody, 0, Missing::Leave)?;
    Ok(staging.map(|spot| Spot { name: format!(".sutler-kept-{manifest}"), ..spot }))
}

/// Keeps what is staged for an item, whole or not. Does nothing if nothing is, or if the same is kept already.
pub fn keep(layout: &Layout, directory: Option<&InstallPath>, manifest: &Digest, attempt: &AttemptId, item: usize) -> Result<(), Error> {
    let Some(kept) = place(layout, directory, manifest)? else { return Ok(()) };
    let Some(staged) = layout.staging(directory, attempt, item, Missing::Leave)? else { return Ok(()) };
    move_to(&staged, &kept)
}

/// Hands an item what is kept of its manifest. Does nothing if nothing is, or if something is staged for it already.
pub fn take(layout: &Layout, directory: Option<&InstallPath>, manifest: &Digest, attempt: &AttemptId, item: usize) -> Result<(), Error> {
    let Some(kept) = place(layout, directory, manifest)? else { return Ok(()) };
    let Some(staged) = layout.staging(directory, attempt, item, Missing::Leave)? else { return Ok(()) };
    move_to(&kept, &staged)
}

/// Removes what is kept of a manifest, if anything is.
pub fn drop_kept(layout: &Layout, directory: Option<&InstallPath>, manifest: &Digest) -> Result<(), Error> {
    match place(layout, directory, manifest)? {
        Some(kept) => exchange::remove(&kept, &kept.name),
        None => Ok(()),
    }
}

fn move_to(from: &Spot, to: &Spot) -> Result<(), Error> {
    if from.look(&from.name)?.is_none() || to.look(&to.name)?.is_some() {
        return Ok(());
    }
    rustix::fs::renameat_with(&from.parent, from.name.as_str(), &to.parent, to.name.as_str(), RenameFlags::NOREPLACE)
        .map_err(io("move the tree", from.path()))?;
    to.sync()
}
