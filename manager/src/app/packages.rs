//! Packages and their versions: noted once all their bytes are there and their signature holds.

use super::{AppError, Env, Result, deltas, jobs, relations};
use sutler_base::{Digest, PackageName, Version, manifest::Manifest, state::CancelReason};
use sutler_core::model::{Package, PackageVersion, Terms};
use sutler_store::{Page, StoreError, Tx};

/// A version whose bytes are all stored and whose signature holds.
#[derive(Debug, Clone)]
pub struct Push {
    /// The manifest.
    pub manifest: Manifest,
    /// The digest of the manifest.
    pub digest: Digest,
    /// The length of the manifest (bytes).
    pub length: u64,
    /// The signed envelope.
    pub envelope: Vec<u8>,
}

/// Makes a version. The same version with the same manifest again is fine; with another one it is refused, and so is one that
/// could depend on itself through others.
///
/// Jobs that follow the newest version of the package get a new revision.
pub async fn push(tx: &mut dyn Tx, env: &Env, input: &Push) -> Result<PackageVersion> {
    let manifest = &input.manifest;
    if let Some(there) = tx.version(&manifest.name, &manifest.version).await? {
        if there.manifest == input.digest {
            return Ok(there);
        }
        return Err(AppError::Exists {
            what: "package version",
            name: format!("{}@{}", manifest.name, manifest.version),
            hint: "a version never changes; give the new one another version".into(),
        });
    }
    let package = match tx.package(&manifest.name).await? {
        Some(package) => package,
        None => {
            let package = Package { uid: env.world.uid(), name: manifest.name.clone(), created: env.now };
            tx.insert_package(&package).await?;
            package
        }
    };
    let version = PackageVersion {
        uid: env.world.uid(),
        package: package.uid,
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        release: manifest.release,
        description: manifest.description.clone(),
        envelope: input.envelope.clone(),
        manifest: input.digest,
        manifest_length: input.length,
        total_bytes: manifest.total_bytes(),
        files: manifest.files.len() as u32,
        expires: manifest.expires,
        terms: Terms::of(manifest),
        withdrawn: None,
        created: env.now,
        creator: env.actor_name().to_owned(),
    };
    tx.insert_version(&version).await.map_err(|e| match e {
        StoreError::Exists(_) => AppError::Exists {
            what: "package version",
            name: format!("{}@{}", manifest.name, manifest.version),
            hint: "somebody pushed it at the same time; give yours another version".into(),
        },
        other => other.into(),
    })?;
    relations::refuse_cycle(tx, env, &version).await?;
    env.audit(tx, "push_package", name_of(&version), format!("release {}, manifest {}", version.release, version.manifest)).await?;
    deltas::ask_for_pushed(tx, env, &version).await?;
    jobs::follow(tx, env, &version.name).await?;
    Ok(version)
}

/// `packages/NAME/versions/VERSION`
pub fn name_of(version: &PackageVersion) -> String {
    format!("packages/{}/versions/{}", version.name, version.version)
}

/// A package with its newest version and how many it has.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The package.
    pub package: Package,
    /// The newest version's text.
    pub newest: String,
    /// How many versions.
    pub versions: u32,
}

async fn show(tx: &mut dyn Tx, package: Package) -> Result<Shown> {
    let newest = tx.newest_version(&package.name).await?.map(|v| v.version.to_string()).unwrap_or_default();
    let versions = tx.count_versions(&package.uid).await?;
    Ok(Shown { package, newest, versions })
}

/// The package, or that there is none.
pub async fn load(tx: &mut dyn Tx, name: &PackageName) -> Result<Package> {
    tx.package(name).await?.ok_or_else(|| AppError::not_found("package", name))
}

/// One package.
pub async fn get(tx: &mut dyn Tx, name: &PackageName) -> Result<Shown> {
    let package = load(tx, name).await?;
    show(tx, package).await
}

/// A page of packages and the key of the next one.
pub async fn list(tx: &mut dyn Tx, page: &Page) -> Result<(Vec<Shown>, Option<String>)> {
    let rows = tx.list_packages(page).await?;
    let next = (rows.len() as u32 == page.limit).then(|| rows.last().map(|p| p.name.to_string())).flatten();
    let mut out = Vec::new();
    for package in rows {
        out.push(show(tx, package).await?);
    }
    Ok((out, next))
}

/// One version; the newest if none is named.
pub async fn version(tx: &mut dyn Tx, name: &PackageName, version: Option<&Version>) -> Result<PackageVersion> {
    let found = match version {
        Some(version) => tx.version(name, version).await?,
        None => tx.newest_version(name).await?,
    };
    match found {
        Some(found) => Ok(found),
        None if tx.package(name).await?.is_none() => Err(AppError::not_found("package", name)),
        None => Err(AppError::not_found("package version", format!("{name}@{}", version.map_or("latest", Version::as_str)))),
    }
}

/// A page of versions and the key of the next one.
pub async fn versions(tx: &mut dyn Tx, name: &PackageName, page: &Page) -> Result<(Vec<PackageVersion>, Option<String>)> {
    let package = load(tx, name).await?;
    let rows = tx.list_versions(&package.uid, page).await?;
    let next = (rows.len() as u32 == page.limit).then(|| rows.last().map(|v| format!("{}/{}", v.release, v.uid))).flatten();
    Ok((rows, next))
}

/// What is to be withdrawn.
#[derive(Debug, Clone)]
pub struct Withdraw {
    /// The package.
    pub package: PackageName,
    /// The version.
    pub version: Version,
    /// Why.
    pub reason: String,
    /// Cancel what has not started, too.
    pub cancel: bool,
}

/// Stops new offers of a version. Jobs that follow the newest one go on with the newest that is left. Again it does nothing but
/// what is asked besides.
pub async fn withdraw(tx: &mut dyn Tx, env: &Env, input: &Withdraw) -> Result<PackageVersion> {
    let mut found = version(tx, &input.package, Some(&input.version)).await?;
    let jobs = tx.jobs_with_version(&found.uid).await?;
    if found.withdrawn.is_none() {
        found.withdrawn = Some((env.now, input.reason.clone()));
        tx.set_withdrawn(&found.uid, found.withdrawn.as_ref()).await?;
        env.audit(tx, "withdraw_package_version", name_of(&found), &input.reason).await?;
        jobs::follow(tx, env, &found.name).await?;
    }
    for job in jobs {
        // One that follows the newest version goes on with another.
        let still = tx.job(&job.id).await?.is_some_and(|now| now.revision == job.revision);
        if input.cancel && still {
            jobs::cancel_open(tx, env, &job.id, CancelReason::Withdrawn).await?;
        }
        env.wakes().jobs.insert(job.id);
    }
    Ok(found)
}

/// Takes a withdrawal back: what waits goes on, and jobs that follow the newest version may have it again.
pub async fn reinstate(tx: &mut dyn Tx, env: &Env, name: &PackageName, text: &Version) -> Result<PackageVersion> {
    let mut found = version(tx, name, Some(text)).await?;
    if found.withdrawn.take().is_some() {
        tx.set_withdrawn(&found.uid, None).await?;
        env.audit(tx, "reinstate_package_version", name_of(&found), "").await?;
        jobs::follow(tx, env, &found.name).await?;
        for job in tx.jobs_with_version(&found.uid).await? {
            jobs::wake_queued(tx, env, &job.id).await?;
        }
    }
    Ok(found)
}

/// Deletes a version that no job refers to, and without which all that stay can be installed. Its bytes go with the next garbage
/// collection.
pub async fn delete_version(tx: &mut dyn Tx, env: &Env, name: &PackageName, text: &Version) -> Result<()> {
    let version = version(tx, name, Some(text)).await?;
    if let Some(job) = tx.job_referring_to(std::slice::from_ref(&version.uid), None).await? {
        return Err(in_use(name_of(&version), &job));
    }
    relations::refuse_needed(tx, &name_of(&version), std::slice::from_ref(&version)).await?;
    tx.delete_version(&version.uid, env.now).await?;
    env.audit(tx, "delete_package_version", name_of(&version), "").await
}

/// Deletes a package with all its versions, if no job refers to one, and all that stay can be installed without it.
pub async fn delete(tx: &mut dyn Tx, env: &Env, name: &PackageName) -> Result<()> {
    let package = load(tx, name).await?;
    let mut all = Vec::new();
    let mut page = Page { after: None, limit: 500 };
    loop {
        let (rows, next) = versions(tx, name, &page).await?;
        all.extend(rows);
        match next {
            Some(next) => page.after = Some(next),
            None => break,
        }
    }
    let uids: Vec<_> = all.iter().map(|v| v.uid.clone()).collect();
    if let Some(job) = tx.job_referring_to(&uids, Some(name)).await? {
        return Err(in_use(format!("packages/{name}"), &job));
    }
    relations::refuse_needed(tx, &format!("packages/{name}"), &all).await?;
    tx.delete_package(&package.uid, env.now).await?;
    env.audit(tx, "delete_package", format!("packages/{name}"), format!("with {} versions", uids.len())).await
}

fn in_use(name: String, job: &sutler_base::JobId) -> AppError {
    let message = format!("{name} can't be deleted: jobs/{job} refers to it; cancel and archive that job first");
    AppError::state(name, "IN_USE", message)
}
