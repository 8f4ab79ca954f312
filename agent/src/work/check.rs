//! Whether what was installed is still there. Nothing is fetched, run or changed for it.

use super::{Shared, prepare, relations as others};
use crate::{
    installer::{Item, Trouble},
    machine::OfferedItem,
};
use sutler_base::{AttemptId, Timestamp, manifest::relations};
use sutler_certs::Envelope;

/// What of these is not there any more: a sentence each, beginning with the package's name.
pub(super) async fn missing(shared: &Shared, items: &[OfferedItem]) -> Result<Vec<String>, Trouble> {
    let mut missing = Vec::new();
    for (index, offered) in items.iter().enumerate() {
        let Ok(envelope) = Envelope::from_json(&offered.envelope) else { continue };
        let kept = shared.content.manifest(&envelope.digest).map_err(|e| Shared::vault_trouble(&e))?;
        // What is installed is kept, so that this was uninstalled, or superseded: an attempt finds out.
        let Some(manifest) = kept else {
            missing.push("a package of the job is not recorded as installed".to_owned());
            continue;
        };
        let Ok(values) = relations::fill(&manifest.parameters, &offered.values) else { continue };
        // No attempt is made for it; what is asked is about the machine.
        let attempt = AttemptId::new(Timestamp::UNIX_EPOCH, [0; 16]);
        let item = Item { attempt, index, manifest, digest: envelope.digest, values };
        let there = others::does_instead(shared, &item, &offered.needed).await?.is_some() || prepare::already_there(shared, &item).await?.0;
        if !there {
            missing.push(format!("{} {} is gone", item.manifest.name, item.manifest.version));
        }
    }
    Ok(missing)
}
