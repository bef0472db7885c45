//! What the provider said of itself, kept for a while.
//!
//! Invariants: a document is kept for an hour, with its keys, and asked again only after that; newer keys are asked for at
//! most once a minute. After a failure the provider is left alone for some seconds. Those who need the same thing at the
//! same time ask once.

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::oidc::Provider;
use crate::oidc::error::{OidcError, ProviderEndpoint};
use crate::oidc::keys::KeySet;
use crate::oidc::metadata::{self, Metadata};
use crate::policy::time::UnixTime;

/// How long a document is kept, in seconds.
const KEPT: i64 = 3600;
/// Between two looks for newer keys, in seconds.
const KEYS_PAUSE: i64 = 60;
/// After a failure, in seconds.
const FAILURE_PAUSE: i64 = 10;

/// What is known of the provider.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<KnownState>);

#[derive(Debug, Default)]
struct KnownState {
    discovered: Option<Discovered>,
    /// Why the last look for a document failed, and when.
    failed: Option<(UnixTime, OidcError)>,
}

#[derive(Debug)]
struct Discovered {
    at: UnixTime,
    metadata: Arc<Metadata>,
    /// None until they are needed.
    keys: Option<Arc<KeySet>>,
    /// When newer keys were looked for.
    refreshed: Option<UnixTime>,
}

impl Known {
    /// The discovery document.
    pub(super) async fn metadata(
        &self,
        provider: &Provider,
        now: UnixTime,
    ) -> Result<Arc<Metadata>, OidcError> {
        let mut state = self.0.lock().await;
        let discovered = state.discovered(provider, now).await?;
        Ok(Arc::clone(&discovered.metadata))
    }

    /// The keys, as they were when they were looked for last.
    pub(super) async fn keys(
        &self,
        provider: &Provider,
        now: UnixTime,
    ) -> Result<Arc<KeySet>, OidcError> {
        let mut state = self.0.lock().await;
        let discovered = state.discovered(provider, now).await?;
        if let Some(keys) = &discovered.keys {
            return Ok(Arc::clone(keys));
        }
        discovered.fetch_keys(provider).await
    }

    /// Newer keys than those that were tried. None: there are none, or they were looked for a moment ago.
    pub(super) async fn newer_keys(
        &self,
        provider: &Provider,
        tried: &Arc<KeySet>,
        now: UnixTime,
    ) -> Result<Option<Arc<KeySet>>, OidcError> {
        let mut state = self.0.lock().await;
        let discovered = state.discovered(provider, now).await?;
        if let Some(keys) = &discovered.keys
            && !Arc::ptr_eq(keys, tried)
        {
            return Ok(Some(Arc::clone(keys)));
        }
        if discovered
            .refreshed
            .is_some_and(|at| is_within(at, KEYS_PAUSE, now))
        {
            return Ok(None);
        }
        discovered.refreshed = Some(now);
        discovered.fetch_keys(provider).await.map(Some)
    }
}

impl KnownState {
    async fn discovered(
        &mut self,
        provider: &Provider,
        now: UnixTime,
    ) -> Result<&mut Discovered, OidcError> {
        let kept = self.discovered.take();
        let discovered = match kept.filter(|kept| is_within(kept.at, KEPT, now)) {
            Some(discovered) => discovered,
            None => self.discover(provider, now).await?,
        };
        Ok(self.discovered.insert(discovered))
    }

    async fn discover(
        &mut self,
        provider: &Provider,
        now: UnixTime,
    ) -> Result<Discovered, OidcError> {
        if let Some((at, error)) = &self.failed
            && is_within(*at, FAILURE_PAUSE, now)
        {
            return Err(error.clone());
        }
        let metadata = fetch_metadata(provider).await;
        self.failed = metadata.as_ref().err().map(|error| (now, error.clone()));
        Ok(Discovered {
            at: now,
            metadata: Arc::new(metadata?),
            keys: None,
            refreshed: None,
        })
    }
}

impl Discovered {
    async fn fetch_keys(&mut self, provider: &Provider) -> Result<Arc<KeySet>, OidcError> {
        let json = provider
            .get(ProviderEndpoint::Keys, &self.metadata.keys)
            .await?;
        let keys = KeySet::parse(&json);
        let keys = keys.ok_or(OidcError::Malformed(
            ProviderEndpoint::Keys,
            "is no set of keys",
        ))?;
        let keys = Arc::new(keys);
        self.keys = Some(Arc::clone(&keys));
        Ok(keys)
    }
}

async fn fetch_metadata(provider: &Provider) -> Result<Metadata, OidcError> {
    let url = metadata::url(&provider.config.issuer_url);
    let json = provider.get(ProviderEndpoint::Discovery, &url).await?;
    Metadata::parse(&json, &provider.config)
}

/// Whether the time is less than `seconds` after `at`. A clock that was set back makes it false.
fn is_within(at: UnixTime, seconds: i64, now: UnixTime) -> bool {
    let age = now.seconds().saturating_sub(at.seconds());
    (0..seconds).contains(&age)
}
