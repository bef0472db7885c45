//! Upstreams, their replicas and the replicas' health, and the catalogue of models that they serve.
//!
//! All workers share one [`Fleet`], and a reload replaces its content as a whole. Each worker has its own connections,
//! in [`pool::Pool`]. This module does not check whether a request is allowed: the caller of [`pool::Pool::send`]
//! passes a permit.

pub(crate) mod connection;
pub(crate) mod discovery;
pub(crate) mod head;
pub(crate) mod outbound;
pub(crate) mod pool;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::net::tls::{self, TlsError};
use crate::observe::metrics::Metrics;
use crate::policy::body_fields::{FieldRules, Taken};
use crate::policy::field_kind::ForwardHeaders;
use crate::policy::key::Key;
use crate::store::config::{self, SaltOwner};

/// All upstreams and the catalogue of models, shared by all workers.
#[derive(Debug)]
pub(crate) struct Fleet {
    current: ArcSwap<Routing>,
    /// Held from reading `current` to replacing it. Without it, a reload and a new list of models could overwrite each
    /// other's changes.
    update_lock: Mutex<()>,
    ready: AtomicBool,
    metrics: Metrics,
}

/// A snapshot of the upstreams and the models that they serve.
#[derive(Debug, Default)]
pub(crate) struct Routing {
    upstreams: Vec<Arc<Upstream>>,
    /// In the order of the config, then in the order of the upstream's own list.
    models: Vec<(Arc<str>, Arc<Upstream>)>,
    by_model: HashMap<Arc<str>, usize>,
    clashes: Vec<ModelClash>,
    refuses_unknown_fields: bool,
    /// The aliases that are in the catalogue, each with the upstream's own name for the model.
    aliases: HashMap<Arc<str>, Arc<str>>,
}

/// A group of replicas that serve the same models.
#[derive(Debug)]
pub(crate) struct Upstream {
    config: config::UpstreamConfig,
    replicas: Vec<Arc<Replica>>,
    /// The upstream's own list of models; None until it was fetched. Not used if the config lists the models.
    discovered: ArcSwapOption<Vec<String>>,
    /// Whether its list of models was requested at least once, with or without success.
    discovery_attempted: AtomicBool,
}

/// One server of an upstream.
#[derive(Debug)]
pub(crate) struct Replica {
    /// Identifies the replica in a worker's pool. Never reused.
    id: u64,
    url: config::ReplicaUrl,
    authority: Box<str>,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    up: AtomicBool,
    /// Whether a connection to it was tried.
    tried: AtomicBool,
    in_flight: AtomicUsize,
}

/// An error in the TLS settings of an upstream.
#[derive(Debug)]
pub(crate) struct UpstreamTlsError {
    /// The upstream's name.
    pub(crate) upstream: String,
    pub(crate) error: TlsError,
}

impl Fleet {
    /// The upstreams of the config. An upstream without `models` serves none until its list was fetched.
    ///
    /// # Errors
    /// The first upstream whose CA cannot be used.
    pub(crate) fn new(
        upstreams: &[config::UpstreamConfig],
        metrics: Metrics,
    ) -> Result<Self, UpstreamTlsError> {
        let fleet = Self {
            current: ArcSwap::from_pointee(Routing::default()),
            update_lock: Mutex::new(()),
            ready: AtomicBool::new(false),
            metrics,
        };
        fleet.reload(upstreams)?;
        Ok(fleet)
    }

    /// Replaces the upstreams by those of the config. Unchanged upstreams keep their health, models and connections.
    ///
    /// # Errors
    /// The first upstream whose CA cannot be used; nothing is changed in that case.
    pub(crate) fn reload(
        &self,
        upstreams: &[config::UpstreamConfig],
    ) -> Result<(), UpstreamTlsError> {
        let _guard = self.lock();
        let before = self.current.load_full();
        let mut after = Vec::with_capacity(upstreams.len());
        for config in upstreams {
            let known = before
                .upstreams
                .iter()
                .find(|upstream| upstream.config.name == config.name);
            after.push(match known {
                // The content of a CA file may have changed.
                Some(known) if known.config == *config && config.ca_file.is_none() => {
                    Arc::clone(known)
                }
                Some(known) => Arc::new(Upstream::new(config.clone())?.with_state_of(known)),
                None => Arc::new(Upstream::new(config.clone())?),
            });
        }
        for gone in before
            .upstreams
            .iter()
            .filter(|old| !after.iter().any(|new| Arc::ptr_eq(old, new)))
        {
            for replica in &gone.replicas {
                self.metrics
                    .forget_replica(gone.name(), &replica.url.to_string());
            }
        }
        self.store(Routing::of(after, self.owners(&before)));
        for upstream in &self.current.load().upstreams {
            for replica in &upstream.replicas {
                self.record_health(upstream, replica);
            }
        }
        Ok(())
    }

    /// Checks that the config's upstreams can be used.
    ///
    /// # Errors
    /// The first upstream whose CA cannot be used.
    pub(crate) fn check(upstreams: &[config::UpstreamConfig]) -> Result<(), UpstreamTlsError> {
        upstreams
            .iter()
            .try_for_each(|upstream| Upstream::new(upstream.clone()).map(drop))
    }

    /// The current snapshot.
    #[must_use]
    pub(crate) fn routing(&self) -> Arc<Routing> {
        self.current.load_full()
    }

    /// Whether the catalogue is known: the config lists the models of every upstream, or the list was requested at
    /// least once. Once ready, it stays ready: a reload that adds an upstream must not stop requests to the others.
    #[must_use]
    pub(crate) fn is_ready(&self) -> bool {
        if self.ready.load(Ordering::Acquire) {
            return true;
        }
        let was_attempted =
            |upstream: &Arc<Upstream>| upstream.discovery_attempted.load(Ordering::Acquire);
        let routing = self.current.load();
        let ready = routing
            .upstreams
            .iter()
            .all(|upstream| !upstream.is_discovered() || was_attempted(upstream));
        self.ready.fetch_or(ready, Ordering::Release);
        ready
    }

    /// Rebuilds the catalogue from the lists that the upstreams returned.
    fn refresh_catalogue(&self) {
        let _guard = self.lock();
        let before = self.current.load_full();
        let upstreams = before.upstreams.clone();
        self.store(Routing::of(upstreams, self.owners(&before)));
    }

    /// Whose names stay where they are. While the first lists are awaited nobody's do: which upstream answers first is
    /// chance.
    fn owners<'r>(&self, before: &'r Routing) -> Option<&'r Routing> {
        self.ready.load(Ordering::Acquire).then_some(before)
    }

    fn store(&self, routing: Routing) {
        self.metrics.model_clashes(routing.clashes.len());
        self.current.store(Arc::new(routing));
    }

    /// A poisoned lock is no error: `current` is always replaced as a whole.
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.update_lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn record_health(&self, upstream: &Upstream, replica: &Replica) {
        self.metrics
            .upstream_up(upstream.name(), &replica.url.to_string(), replica.is_up());
    }

    /// Marks a replica up or down. Returns whether that changed it.
    fn set_health(&self, upstream: &Upstream, replica: &Replica, up: bool) -> bool {
        replica.note_tried();
        let changed = replica.up.swap(up, Ordering::Relaxed) != up;
        if changed {
            self.record_health(upstream, replica);
        }
        changed
    }
}

/// A model that two upstreams name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ModelClash {
    /// The model's name.
    pub(crate) model: String,
    /// The upstream that gets its requests.
    pub(crate) served_by: String,
    /// The upstream that does not.
    pub(crate) ignored: String,
}

impl Routing {
    /// The catalogue of these upstreams. A name that a config lists is served there, whoever else says that he has it.
    /// A name that upstreams say themselves stays where it was `before`, so that one which starts later, or has been
    /// broken into, takes no requests from another; at first it goes to the first in the config's order.
    fn of(upstreams: Vec<Arc<Upstream>>, before: Option<&Self>) -> Self {
        let lists: Vec<Vec<String>> = upstreams.iter().map(|upstream| upstream.models()).collect();
        let mut owners: HashMap<&str, usize> = HashMap::new();
        // Aliases too, also while they are not offered yet: the same name must not lead to another upstream later.
        for (index, upstream) in upstreams.iter().enumerate() {
            for (alias, _) in &upstream.config.aliases {
                owners.insert(alias, index);
            }
        }
        let is_alias: HashSet<&str> = owners.keys().copied().collect();
        let mut give = |is_owner: &dyn Fn(&Upstream, &str) -> bool| {
            for (index, (upstream, models)) in upstreams.iter().zip(&lists).enumerate() {
                for model in models.iter().filter(|model| is_owner(upstream, model)) {
                    owners.entry(model).or_insert(index);
                }
            }
        };
        give(&|upstream, _| !upstream.is_discovered());
        give(&|upstream, model| {
            let owner = before.and_then(|before| before.upstream_of(model));
            owner.is_some_and(|owner| owner.name() == upstream.name())
        });
        give(&|_, _| true);
        let mut routing = Self {
            refuses_unknown_fields: upstreams
                .iter()
                .any(|upstream| upstream.field_rules().unknown_fields == Taken::Refuse),
            ..Self::default()
        };
        for (index, (upstream, models)) in upstreams.iter().zip(&lists).enumerate() {
            for model in models {
                let owner = owners.get(model.as_str()).copied().unwrap_or(index);
                if owner != index || is_alias.contains(model.as_str()) {
                    routing.clashes.push(ModelClash {
                        model: model.clone(),
                        served_by: upstreams[owner].name().to_owned(),
                        ignored: upstream.name().to_owned(),
                    });
                } else if !routing.by_model.contains_key(model.as_str()) {
                    let model: Arc<str> = model.as_str().into();
                    let place = routing.models.len();
                    routing.by_model.insert(Arc::clone(&model), place);
                    routing.models.push((model, Arc::clone(upstream)));
                }
            }
        }
        for upstream in &upstreams {
            routing.add_aliases(upstream);
        }
        drop((owners, is_alias));
        routing.upstreams = upstreams;
        routing
    }

    /// The models that two upstreams name.
    #[must_use]
    pub(crate) fn clashes(&self) -> &[ModelClash] {
        &self.clashes
    }

    /// The upstreams that were never heard of: what they serve is not known yet.
    pub(crate) fn unheard(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams
            .iter()
            .filter(|upstream| upstream.is_discovered() && upstream.discovered.load().is_none())
    }

    /// Adds an upstream's aliases of models that it serves by now.
    fn add_aliases(&mut self, upstream: &Arc<Upstream>) {
        if upstream.config.aliases.is_empty() {
            return;
        }
        let models = upstream.models();
        let aliases = upstream.config.aliases.iter();
        for (alias, sent_as) in aliases.filter(|(_, sent_as)| models.contains(sent_as)) {
            let alias: Arc<str> = alias.as_str().into();
            self.by_model.insert(Arc::clone(&alias), self.models.len());
            self.models.push((Arc::clone(&alias), Arc::clone(upstream)));
            self.aliases.insert(alias, sent_as.as_str().into());
        }
    }

    /// The upstream's own name for a model, if the model is an alias.
    #[must_use]
    pub(crate) fn sent_as(&self, model: &str) -> Option<&Arc<str>> {
        if self.aliases.is_empty() {
            return None;
        }
        self.aliases.get(model)
    }

    /// The upstream that serves a model of exactly this name.
    #[must_use]
    pub(crate) fn upstream_of(&self, model: &str) -> Option<&Arc<Upstream>> {
        self.by_model.get(model).map(|at| &self.models[*at].1)
    }

    /// The catalogue's own copy of a model's name, and the upstream that serves it.
    #[must_use]
    pub(crate) fn served(&self, model: &str) -> Option<(&Arc<str>, &Arc<Upstream>)> {
        let place = self.by_model.get(model)?;
        let (name, upstream) = &self.models[*place];
        Some((name, upstream))
    }

    /// The catalogue: each model's name and its upstream.
    pub(crate) fn models(&self) -> impl Iterator<Item = (&str, &Arc<Upstream>)> {
        self.models
            .iter()
            .map(|(model, upstream)| (&**model, upstream))
    }

    /// Whether any upstream takes only documented fields.
    #[must_use]
    pub(crate) fn refuses_unknown_fields(&self) -> bool {
        self.refuses_unknown_fields
    }

    /// The upstreams, in the order of the config.
    #[must_use]
    pub(crate) fn upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }
}

impl Upstream {
    fn new(config: config::UpstreamConfig) -> Result<Self, UpstreamTlsError> {
        let error = |error| UpstreamTlsError {
            upstream: config.name.clone(),
            error,
        };
        let needs_tls = config.replicas.iter().any(|url| url.https);
        let tls = if needs_tls {
            Some(tls::client_config(config.ca_file.as_deref()).map_err(error)?)
        } else {
            None
        };
        let replicas = config
            .replicas
            .iter()
            .map(|url| Arc::new(Replica::new(url.clone(), tls.as_ref())))
            .collect();
        Ok(Self {
            config,
            replicas,
            discovered: ArcSwapOption::empty(),
            discovery_attempted: AtomicBool::new(false),
        })
    }

    /// Copies the state of the previous upstream of this name: its models, until the list is fetched again, and the
    /// health of replicas that both have.
    fn with_state_of(self, known: &Self) -> Self {
        self.discovered.store(known.discovered.load_full());
        self.discovery_attempted.store(
            known.discovery_attempted.load(Ordering::Acquire),
            Ordering::Release,
        );
        for replica in &self.replicas {
            if let Some(same) = known.replicas.iter().find(|other| other.url == replica.url) {
                replica.up.store(same.is_up(), Ordering::Relaxed);
                replica.tried.store(same.was_tried(), Ordering::Relaxed);
            }
        }
        self
    }

    /// The upstream's name in the config.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    #[must_use]
    pub(crate) fn replicas(&self) -> &[Arc<Replica>] {
        &self.replicas
    }

    /// The models that it is known to serve.
    #[must_use]
    pub(crate) fn models(&self) -> Vec<String> {
        match &self.config.models {
            Some(models) => models.clone(),
            None => self
                .discovered
                .load()
                .as_deref()
                .cloned()
                .unwrap_or_default(),
        }
    }

    /// How the usage of its streams is learned.
    pub(crate) fn usage(&self) -> config::UsageMode {
        self.config.usage
    }

    /// The server that it runs, where the config says so.
    pub(crate) fn engine(&self) -> Option<config::Engine> {
        self.config.engine
    }

    /// Whether the gateway sets `cache_salt` in the bodies it gets.
    pub(crate) fn sets_cache_salt(&self) -> bool {
        self.config.inject.is_some()
    }

    /// The salt for a key's requests; None if none is set, or if there is no secret.
    pub(crate) fn cache_salt(&self, key: &Key) -> Option<String> {
        let inject = self.config.inject.as_ref()?;
        match (inject.cache_salt, key.account()) {
            (SaltOwner::Account, Some(account)) => inject.secret.salt(SaltOwner::Account, account),
            (SaltOwner::Account, None) | (SaltOwner::Key, _) => {
                inject.secret.salt(SaltOwner::Key, key.id())
            }
        }
    }

    /// Which fields of a body it takes.
    pub(crate) fn field_rules(&self) -> FieldRules {
        self.config.fields
    }

    fn is_discovered(&self) -> bool {
        self.config.models.is_none()
    }

    /// Which of a client's header fields it gets besides those that every upstream gets.
    #[must_use]
    pub(crate) fn forward_headers(&self) -> &ForwardHeaders {
        &self.config.forward_headers
    }

    fn credential(&self) -> Option<&str> {
        self.config
            .credential
            .as_ref()
            .map(config::Credential::reveal)
    }
}

impl Replica {
    fn new(url: config::ReplicaUrl, tls: Option<&Arc<ClientConfig>>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = ServerName::try_from(url.host.clone()).ok();
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            authority: url.authority().into_boxed_str(),
            tls: tls.filter(|_| url.https).cloned().zip(name),
            url,
            up: AtomicBool::new(true),
            tried: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
        }
    }

    /// The value of a Host header for it: its host, and its port if that is not the default of the scheme.
    #[must_use]
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Its scheme, host and port.
    #[must_use]
    pub(crate) fn url(&self) -> &config::ReplicaUrl {
        &self.url
    }

    /// Whether a connection to it was tried, so that [`Self::is_up`] is more than a guess.
    #[must_use]
    pub(crate) fn was_tried(&self) -> bool {
        self.tried.load(Ordering::Relaxed)
    }

    fn note_tried(&self) {
        self.tried.store(true, Ordering::Relaxed);
    }

    /// Whether requests are sent to it. A replica that refuses a connection is marked down.
    #[must_use]
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }
}
