//! Objects in a bucket of an S3-compatible store, which several managers share.

mod http;

use crate::{Content, Error};
use http::Connector;
use object_store::{
    BackoffConfig, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
};
use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

/// How long one object is tried for, with all that is tried again in between.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often one request is made again after the store was not there or said that it is overloaded.
const TRIES: usize = 8;
/// The longest pause between two of them.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The region that signatures name where none is given: S3's first, and what other stores take for "any".
const REGION: &str = "us-east-1";

/// The key with which requests are signed.
#[derive(Clone, PartialEq, Eq)]
pub enum Access {
    /// What `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN` say in the manager's environment, or the role
    /// that the machine or the pod has at its provider.
    Environment,
    /// A key that is kept in a file.
    Key {
        /// Its name.
        id: String,
        /// Its secret.
        secret: String,
    },
}

/// Never with the secret.
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Access::Environment => f.write_str("Environment"),
            Access::Key { id, .. } => write!(f, "Key({id})"),
        }
    }
}

/// A bucket, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// Below what key the objects lie, without a slash at its ends; may be empty.
    pub prefix: String,
    /// The server, as `https://HOST:PORT` (or `http://…`: then what is sent can be read on the way); none for Amazon's.
    pub endpoint: Option<String>,
    /// The region that signatures name; none for `us-east-1`.
    pub region: Option<String>,
    /// The key.
    pub access: Access,
    /// A file with the CAs (PEM) that the server's certificate may come from; none for those of this machine.
    pub ca: Option<PathBuf>,
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.name)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        match &self.endpoint {
            Some(endpoint) => write!(f, " at {endpoint}"),
            None => Ok(()),
        }
    }
}

impl Bucket {
    fn client(&self) -> Result<AmazonS3, Error> {
        let failed = |source| Error::Store { what: format!("be {self}"), source };
        let builder = match &self.access {
            Access::Environment => AmazonS3Builder::from_env(),
            Access::Key { id, secret } => AmazonS3Builder::new().with_access_key_id(id).with_secret_access_key(secret),
        };
        let backoff = BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: PAUSE_MAX, base: 2. };
        let builder = builder
            .with_bucket_name(&self.name)
            .with_region(self.region.as_deref().unwrap_or(REGION))
            .with_retry(RetryConfig { backoff, max_retries: TRIES, retry_timeout: PATIENCE })
            .with_http_connector(Connector::new(self.ca.as_deref())?);
        let builder = match &self.endpoint {
            // The bucket in the path: the server's name needs no wildcard certificate.
            Some(endpoint) => builder.with_endpoint(endpoint).with_virtual_hosted_style_request(false).with_allow_http(true),
            None => builder.with_virtual_hosted_style_request(true),
        };
        builder.build().map_err(failed)
    }
}

impl Content {
    /// Objects in a bucket. Nothing is asked of the server yet; [`Content::reach`] does.
    pub fn open_bucket(bucket: &Bucket) -> Result<Content, Error> {
        Ok(Content::new(Arc::new(bucket.client()?), &bucket.prefix))
    }
}
