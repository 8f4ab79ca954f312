//! Where the bytes of packages lie: a folder, or a bucket of an S3-compatible store.

use crate::folder::Folder;
use serde::Deserialize;
use std::{
    fmt, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use sutler_base::quoted;
use sutler_content::{
    Content, Error,
    s3::{Access, Bucket},
};

const SCHEME: &str = "s3://";
/// The longest key file (bytes).
const KEY_MAX: u64 = 64 << 10;

/// The table `[s3]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenS3 {
    endpoint: Option<String>,
    region: Option<String>,
    key: Option<PathBuf>,
    ca: Option<PathBuf>,
}

/// What a key file holds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKey {
    access_key_id: String,
    secret_access_key: String,
}

/// Where the bytes of packages lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentAt {
    /// In a folder; absolute.
    Folder(PathBuf),
    /// In a bucket.
    Bucket {
        /// The bucket; its key, if it has one in a file, isn't read yet.
        bucket: Bucket,
        /// The file with the key that requests are signed with; none: the environment's.
        key: Option<PathBuf>,
    },
}

impl fmt::Display for ContentAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ContentAt::Folder(path) => path.display().fmt(f),
            ContentAt::Bucket { bucket, .. } => bucket.fmt(f),
        }
    }
}

impl ContentAt {
    /// What the configuration says; an error is a sentence.
    pub(super) fn read(folder: &Folder, content: Option<String>, s3: Option<WrittenS3>) -> Result<ContentAt, String> {
        let Some(rest) = content.as_deref().and_then(|text| text.strip_prefix(SCHEME)) else {
            if s3.is_some() {
                return Err("there is a table [s3], and content names no bucket; write content = \"s3://BUCKET/PREFIX\"".into());
            }
            return Ok(ContentAt::Folder(content.map_or_else(|| folder.content(), |path| folder.path().join(path))));
        };
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        // https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        if !(3..=63).contains(&name.len()) || !name.chars().all(fits) {
            return Err(format!("content names the bucket {}; a name has 3 to 63 of a-z, 0-9, - and .", quoted(name)));
        }
        let part = |part: &str| {
            !part.is_empty() && part != "." && part != ".." && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        if prefix.len() > 200 || !(prefix.is_empty() || prefix.split('/').all(part)) {
            return Err(format!("content has the prefix {}; it has parts of A-Z, a-z, 0-9, -, _ and ., 200 bytes at most", quoted(prefix)));
        }
        let WrittenS3 { endpoint, region, key, ca } = s3.unwrap_or_default();
        if let Some(endpoint) = &endpoint {
            let uri: http::Uri = endpoint.parse().map_err(|e| format!("s3.endpoint {} is no address: {e}", quoted(endpoint)))?;
            if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() || uri.path() != "/" || uri.query().is_some() {
                return Err(format!("s3.endpoint is https://HOST or https://HOST:PORT, not {}", quoted(endpoint)));
            }
        }
        let bucket = Bucket {
            name: name.into(),
            prefix: prefix.into(),
            endpoint: endpoint.map(|text| text.trim_end_matches('/').to_owned()),
            region,
            access: Access::Environment,
            ca: ca.map(|path| folder.path().join(path)),
        };
        Ok(ContentAt::Bucket { bucket, key: key.map(|path| folder.path().join(path)) })
    }

    /// The folder, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            ContentAt::Folder(path) => Some(path),
            ContentAt::Bucket { .. } => None,
        }
    }

    /// Opens it. Of a bucket nothing is asked yet.
    pub fn open(&self) -> Result<Content, Error> {
        match self {
            ContentAt::Folder(path) => Content::open_folder(path),
            ContentAt::Bucket { bucket, key: None } => Content::open_bucket(bucket),
            ContentAt::Bucket { bucket, key: Some(path) } => {
                let access = read_key(path).map_err(|source| Error::Key { path: path.clone(), source })?;
                Content::open_bucket(&Bucket { access, ..bucket.clone() })
            }
        }
    }
}

fn read_key(path: &Path) -> io::Result<Access> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let meta = fs_err::metadata(path)?;
    if meta.mode() & 0o007 != 0 {
        return Err(invalid(format!("it holds a secret and is open to every user of this machine; chmod o= {}", path.display())));
    }
    if meta.len() > KEY_MAX {
        return Err(invalid(format!("it is {} bytes long; at most {KEY_MAX} are read", meta.len())));
    }
    // Without what the parser shows of the text: it is a secret.
    let written: WrittenKey = toml::from_str(&fs_err::read_to_string(path)?).map_err(|e: toml::de::Error| {
        invalid(format!("{}; it has the lines access_key_id = \"…\" and secret_access_key = \"…\"", e.message()))
    })?;
    Ok(Access::Key { id: written.access_key_id, secret: written.secret_access_key })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str, s3: &str) -> Result<ContentAt, String> {
        let s3 = if s3.is_empty() { None } else { Some(toml::from_str(s3).map_err(|e| e.to_string())?) };
        ContentAt::read(&Folder::new("/srv/sutler"), Some(content.into()), s3)
    }

    #[test]
    fn a_folder_is_relative_to_the_managers_and_a_bucket_has_a_prefix() {
        assert_eq!(read("bytes", "").unwrap(), ContentAt::Folder("/srv/sutler/bytes".into()));
        let at = read("s3://packages/some/where/", "endpoint = \"http://127.0.0.1:9000/\"\nkey = \"s3.key\"").unwrap();
        assert_eq!(at.to_string(), "s3://packages/some/where at http://127.0.0.1:9000");
        assert!(matches!(at, ContentAt::Bucket { key: Some(path), .. } if path == Path::new("/srv/sutler/s3.key")));
        assert_eq!(read("s3://packages", "").unwrap().to_string(), "s3://packages");
    }

    #[test]
    fn a_mistake_is_named() {
        for (content, s3, word) in [
            ("bytes", "region = \"x\"", "names no bucket"),
            ("s3://a", "", "3 to 63"),
            ("s3://Packages", "", "3 to 63"),
            ("s3://packages/../x", "", "prefix"),
            ("s3://packages/a//b", "", "prefix"),
            ("s3://packages", "endpoint = \"s3.acme.example\"", "https://HOST"),
            ("s3://packages", "endpoint = \"https://s3.acme.example/path\"", "https://HOST"),
            ("s3://packages", "secret = \"x\"", "secret"),
        ] {
            let error = read(content, s3).unwrap_err();
            assert!(error.contains(word), "{content} {s3}: {error}");
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_and_no_error_shows_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let say = |text: &str, mode: u32| {
            fs_err::write(&path, text).unwrap();
            fs_err::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            read_key(&path)
        };
        let good = "access_key_id = \"AKIA\"\nsecret_access_key = \"hush\"\n";
        assert_eq!(say(good, 0o600).unwrap(), Access::Key { id: "AKIA".into(), secret: "hush".into() });
        assert!(say(good, 0o644).unwrap_err().to_string().contains("chmod o="));
        for text in ["access_key_id = \"AKIA\"\nsecret_access_key = hush\n", "secret_access_key = \"hush\"\n", "hush"] {
            let error = say(text, 0o600).unwrap_err().to_string();
            assert!(error.contains("access_key_id") && !error.contains("hush"), "{error}");
        }
        assert!(!format!("{:?}", say(good, 0o600).unwrap()).contains("hush"));
    }
}
