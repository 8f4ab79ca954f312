//! Packages and their versions.

use super::unit::{Columns, Result, Unit};
use crate::{Packages, Page, Related, StoreError, bind};
use async_trait::async_trait;
use std::collections::BTreeSet;
use sutler_base::{Digest, JobId, PackageName, Timestamp, Uid, Version};
use sutler_core::model::{Package, PackageVersion};

macro_rules! version_columns {
    () => {
        "v.uid, v.package, p.name, v.version, v.release, v.description, v.envelope, v.manifest, v.manifest_length, v.total_bytes, v.files, \
         v.expires_ms, v.terms, v.withdrawn_ms, v.withdraw_reason, v.created_ms, v.creator"
    };
}
/// Versions that exist, of packages that exist.
macro_rules! versions {
    () => {
        " FROM package p JOIN package_version v ON v.package = p.uid AND v.deleted_ms IS NULL "
    };
}

fn kind(how: Related) -> &'static str {
    match how {
        Related::DependsOn => "DEPENDS_ON",
        Related::Supersedes => "SUPERSEDES",
    }
}

fn package(row: &mut Columns<'_>) -> Result<Package> {
    Ok(Package { uid: row.parse()?, name: row.parse()?, created: row.time()? })
}

fn version(row: &mut Columns<'_>) -> Result<PackageVersion> {
    Ok(PackageVersion {
        uid: row.parse()?,
        package: row.parse()?,
        name: row.parse()?,
        version: row.parse()?,
        release: row.number()?,
        description: row.text()?,
        envelope: row.bytes()?,
        manifest: row.digest()?,
        manifest_length: row.number()?,
        total_bytes: row.number()?,
        files: row.number()?,
        expires: row.opt_time()?,
        terms: row.json()?,
        withdrawn: {
            let (at, reason) = (row.opt_time()?, row.text()?);
            at.map(|at| (at, reason))
        },
        created: row.time()?,
        creator: row.text()?,
    })
}

#[async_trait]
impl Packages for Unit<'_> {
    async fn insert_package(&mut self, package: &Package) -> Result<()> {
        let change = self.change(1).await?;
        let sql = "INSERT INTO package (uid, name, created_ms, change) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
        self.insert("package", query!(sql, package.uid.to_string(), package.name.to_string(), bind::ms(package.created), change)).await
    }

    async fn package(&mut self, name: &PackageName) -> Result<Option<Package>> {
        let sql = self.lock("SELECT uid, name, created_ms FROM package WHERE name = $1 AND deleted_ms IS NULL");
        self.one("package", query!(sql, name.to_string()), package).await
    }

    async fn list_packages(&mut self, page: &Page) -> Result<Vec<Package>> {
        let sql = "SELECT uid, name, created_ms FROM package WHERE name > $1 AND deleted_ms IS NULL ORDER BY name LIMIT $2";
        self.list("package", query!(sql, bind::after(page), i64::from(page.limit)), package).await
    }

    async fn delete_package(&mut self, uid: &Uid, now: Timestamp) -> Result<()> {
        let change = self.change(1).await?;
        let sql = "UPDATE package SET deleted_ms = $2, change = $3 WHERE uid = $1 AND deleted_ms IS NULL";
        self.save("package", uid.as_str(), query!(sql, uid.to_string(), bind::ms(now), change)).await?;
        let sql = "UPDATE package_version SET deleted_ms = $2, change = $3 WHERE package = $1 AND deleted_ms IS NULL";
        self.run(query!(sql, uid.to_string(), bind::ms(now), change)).await?;
        Ok(())
    }

    async fn insert_version(&mut self, version: &PackageVersion) -> Result<()> {
        // The package's row first: it can't be deleted in between and keep a version.
        let sql = self.lock("SELECT uid FROM package WHERE uid = $1 AND deleted_ms IS NULL");
        if self.row(query!(sql, version.package.to_string())).await?.is_none() {
            return Err(StoreError::Statement(format!("there is no package {} to add a version to", version.package)));
        }
        let change = self.change(1).await?;
        self.insert(
            "version",
            query!(
                "INSERT INTO package_version (uid, package, version, release, description, envelope, manifest, manifest_length, total_bytes, \
                 files, expires_ms, terms, created_ms, creator, change) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) ON CONFLICT DO NOTHING",
                version.uid.to_string(),
                version.package.to_string(),
                version.version.to_string(),
                bind::int(version.release)?,
                bind::text(&version.description),
                version.envelope.clone(),
                version.manifest.0.to_vec(),
                bind::int(version.manifest_length)?,
                bind::int(version.total_bytes)?,
                i64::from(version.files),
                bind::opt_ms(version.expires),
                bind::json(&version.terms),
                bind::ms(version.created),
                bind::text(&version.creator),
                change
            ),
        )
        .await?;
        let terms = &version.terms;
        let rows: BTreeSet<_> = (terms.depends_on.iter().map(|d| (kind(Related::DependsOn), &d.package)))
            .chain(terms.supersedes.iter().map(|s| (kind(Related::Supersedes), &s.package)))
            .collect();
        let sql = concat!("INSERT INTO package_relation (version, kind, other) SELECT $2, v.value->>0, v.value->>1 FROM", each!(1));
        self.run(query!(sql, bind::json(&rows), version.uid.to_string())).await?;
        Ok(())
    }

    async fn version(&mut self, package: &PackageName, version_: &Version) -> Result<Option<PackageVersion>> {
        let sql = concat!("SELECT ", version_columns!(), versions!(), "WHERE p.name = $1 AND p.deleted_ms IS NULL AND v.version = $2");
        self.one("package_version", query!(sql, package.to_string(), version_.to_string()), version).await
    }

    async fn versions_by_uid(&mut self, uids: &[Uid]) -> Result<Vec<PackageVersion>> {
        let sql = concat!("SELECT ", version_columns!(), versions!(), "WHERE v.uid", any!(1), " ORDER BY v.uid");
        self.list("package_version", query!(sql, bind::list(uids)), version).await
    }

    async fn newest_version(&mut self, package: &PackageName) -> Result<Option<PackageVersion>> {
        let sql = concat!(
            "SELECT ",
            version_columns!(),
            versions!(),
            "WHERE p.name = $1 AND p.deleted_ms IS NULL AND v.withdrawn_ms IS NULL ORDER BY v.release DESC, v.uid DESC LIMIT 1"
        );
        self.one("package_version", query!(sql, package.to_string()), version).await
    }

    async fn list_versions(&mut self, package: &Uid, page: &Page) -> Result<Vec<PackageVersion>> {
        let (release, uid) = bind::before(page)?;
        // The first page starts above the highest release that there can be.
        let uid = if page.after.is_none() { "~".to_owned() } else { uid };
        let sql = concat!(
            "SELECT ",
            version_columns!(),
            versions!(),
            "WHERE p.uid = $1 AND (v.release, v.uid) < ($2, $3) ORDER BY v.release DESC, v.uid DESC LIMIT $4"
        );
        self.list("package_version", query!(sql, package.to_string(), release, uid, i64::from(page.limit)), version).await
    }

    async fn versions_of(&mut self, package: &PackageName, limit: u32) -> Result<Vec<PackageVersion>> {
        let sql = concat!(
            "SELECT ",
            version_columns!(),
            versions!(),
            "WHERE p.name = $1 AND p.deleted_ms IS NULL ORDER BY v.release DESC, v.uid DESC LIMIT $2"
        );
        self.list("package_version", query!(sql, package.to_string(), i64::from(limit)), version).await
    }

    async fn packages_related(&mut self, how: Related, to: &[PackageName], limit: u32) -> Result<Vec<PackageName>> {
        let sql = concat!(
            "SELECT DISTINCT p.name FROM package_relation r JOIN package_version v ON v.uid = r.version AND v.deleted_ms IS NULL \
             JOIN package p ON p.uid = v.package WHERE r.kind = $2 AND r.other",
            any!(1),
            " ORDER BY p.name LIMIT $3"
        );
        self.list("package_relation", query!(sql, bind::list(to), kind(how), i64::from(limit)), |row| row.parse()).await
    }

    async fn versions_related(&mut self, how: Related, to: &[PackageName], page: &Page) -> Result<Vec<PackageVersion>> {
        let sql = concat!(
            "SELECT DISTINCT r.version FROM package_relation r JOIN package_version v ON v.uid = r.version AND v.deleted_ms IS NULL \
             WHERE r.kind = $2 AND r.other",
            any!(1),
            " AND r.version > $3 ORDER BY r.version LIMIT $4"
        );
        let query = query!(sql, bind::list(to), kind(how), bind::after(page), i64::from(page.limit));
        let uids: Vec<Uid> = self.list("package_relation", query, |row| row.parse()).await?;
        self.versions_by_uid(&uids).await
    }

    async fn count_versions(&mut self, package: &Uid) -> Result<u32> {
        let sql = "SELECT COUNT(*) FROM package_version WHERE package = $1 AND deleted_ms IS NULL";
        Ok(self.one("package_version", query!(sql, package.to_string()), |row| row.number()).await?.unwrap_or(0))
    }

    async fn delete_version(&mut self, uid: &Uid, now: Timestamp) -> Result<()> {
        let change = self.change(1).await?;
        let sql = "UPDATE package_version SET deleted_ms = $2, change = $3 WHERE uid = $1 AND deleted_ms IS NULL";
        self.save("version", uid.as_str(), query!(sql, uid.to_string(), bind::ms(now), change)).await?;
        self.run(query!("DELETE FROM breaker WHERE version = $1", uid.to_string())).await?;
        Ok(())
    }

    async fn set_withdrawn(&mut self, uid: &Uid, withdrawn: Option<&(Timestamp, String)>) -> Result<()> {
        let change = self.change(1).await?;
        let (at, reason) = (withdrawn.map(|(at, _)| bind::ms(*at)), bind::text(withdrawn.map_or("", |(_, reason)| reason)));
        let sql = "UPDATE package_version SET withdrawn_ms = $2, withdraw_reason = $3, change = $4 WHERE uid = $1 AND deleted_ms IS NULL";
        self.save("version", uid.as_str(), query!(sql, uid.to_string(), at, reason, change)).await
    }

    async fn job_referring_to(&mut self, versions: &[Uid], package: Option<&PackageName>) -> Result<Option<JobId>> {
        // Open executions by the counters: there are a few rows of those per job.
        macro_rules! alive {
            () => {
                " AND (NOT j.archived OR EXISTS (SELECT 1 FROM job_counter k WHERE k.job = j.id AND k.n > 0 AND k.state IN \
                 ('QUEUED', 'OFFERED', 'DOWNLOADING', 'WAITING', 'INSTALLING', 'VERIFYING', 'RESTORING'))) ORDER BY j.id LIMIT 1"
            };
        }
        let sql = concat!("SELECT j.id FROM job_package p JOIN job j ON j.id = p.job WHERE p.version", any!(1), alive!());
        let found = self.one("job_package", query!(sql, bind::list(versions)), |row| row.parse()).await?;
        match (found, package) {
            (None, Some(name)) => {
                let sql = concat!("SELECT j.id FROM job_package p JOIN job j ON j.id = p.job WHERE p.package = $1", alive!());
                self.one("job_package", query!(sql, name.to_string()), |row| row.parse()).await
            }
            (found, _) => Ok(found),
        }
    }

    async fn version_of_manifest(&mut self, manifest: &Digest) -> Result<Option<PackageVersion>> {
        let sql = concat!(
            "SELECT ",
            version_columns!(),
            " FROM package_version v JOIN package p ON p.uid = v.package WHERE v.manifest = $1 AND v.deleted_ms IS NULL \
             ORDER BY v.uid LIMIT 1"
        );
        self.one("package_version", query!(sql, manifest.0.to_vec()), version).await
    }

    async fn live_manifests(&mut self) -> Result<Vec<Digest>> {
        let sql = "SELECT DISTINCT manifest FROM package_version WHERE deleted_ms IS NULL";
        self.list("package_version", query!(sql), |row| row.digest()).await
    }
}
