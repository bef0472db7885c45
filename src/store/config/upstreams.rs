//! Reads the config's upstreams with their credentials.

use std::collections::HashMap;
use std::path::Path;

use zeroize::Zeroizing;

use crate::policy::body_fields::{FieldRules, Taken};
use crate::policy::field_kind::ForwardHeaders;
use crate::store::config::sections::{ConfigReader, values};
use crate::store::config::tree::{Located, Location, Section};
use crate::store::config::usage::{UsageMode, usage_of_upstream};
use crate::store::config::{
    Credential, Inject, InjectSecret, KeysConfig, SaltOwner, UpstreamConfig, files, value,
};

/// The name of the file with the secret for `inject`, beside the key file.
const INJECT_SECRET: &str = "inject-secret";

/// The names that the config gives to models, over all upstreams.
#[derive(Default)]
struct CatalogueNames {
    /// Each with its line.
    models: HashMap<String, usize>,
    aliases: Vec<Located<String>>,
}

impl ConfigReader<'_> {
    /// `keys`: beside the key file is the secret for `inject`, unless the config names another file.
    pub(crate) fn upstreams(
        &self,
        root: &mut Section<'_>,
        keys: Option<&KeysConfig>,
    ) -> Vec<UpstreamConfig> {
        let named = root.has("inject_secret_file");
        let secret_file = root.text("inject_secret_file", |text| value::path(text, self.folder));
        let secret_file = match keys {
            Some(keys) if !named => Some(keys.file.with_file_name(INJECT_SECRET)),
            Some(_) | None => secret_file,
        };
        let sections = root.sections("upstreams");
        let from_flags = self.flags("--upstream", &self.overrides.upstreams, named_after_host);
        if self.overrides.upstreams.is_empty() && !root.is_present() {
            self.faults.add(
                &Location::flag("--upstream"),
                "is missing, and there is no config file; add --upstream URL, or name a file with --config",
            );
        } else if self.overrides.upstreams.is_empty()
            && (!root.has("upstreams") || sections.as_ref().is_some_and(Vec::is_empty))
        {
            root.fault(
                "upstreams",
                "names no upstream; add [[upstreams]] with a name and a url",
            );
        }
        let mut models = CatalogueNames::default();
        let from_file: Vec<_> = sections
            .into_iter()
            .flatten()
            .filter_map(|section| self.upstream(section, &mut models, secret_file.as_deref()))
            .collect();
        self.reject_taken_aliases(&models);
        self.reject_duplicate_names(&from_file);
        self.reject_duplicate_names(&from_flags);
        values(Some(if self.overrides.upstreams.is_empty() {
            from_file
        } else {
            from_flags
        }))
    }

    /// `models`: the models of earlier upstreams, and their aliases.
    fn upstream(
        &self,
        mut section: Section<'_>,
        models: &mut CatalogueNames,
        secret_file: Option<&Path>,
    ) -> Option<Located<UpstreamConfig>> {
        if !section.is_present() {
            return None;
        }
        for (required, example) in [("name", "llama"), ("url", "http://127.0.0.1:8000")] {
            if !section.has(required) {
                section.fault(
                    required,
                    format!("is missing; add {required} = {example:?} to this upstream"),
                );
            }
        }
        let name = section.text("name", value::name);
        let replicas = section.text_or_texts("url", value::base_url);
        let served = section.texts("models", value::name);
        if section.is_empty_list("models") {
            section.fault(
                "models",
                "is an empty list; name the models, or leave the field out to ask the upstream for them",
            );
        }
        for Located { location, value } in served.iter().flatten() {
            if let Some(line) = models.models.insert(value.clone(), location.line()) {
                self.faults.add(
                    location,
                    format!(
                        "{} is served by line {line} already; name each model once",
                        value::quoted(value)
                    ),
                );
            }
        }
        for (index, Located { location, value }) in replicas.iter().flatten().enumerate() {
            let mut earlier = replicas.iter().flatten().take(index);
            if earlier.any(|other| other.value == *value) {
                self.faults.add(
                    location,
                    format!("names {value} again; name each replica once"),
                );
            }
        }
        let (usage, engine) = usage_of_upstream(&mut section);
        let aliases = self.aliases(&mut section, served.as_deref(), models);
        let inject = self.inject(&mut section, secret_file);
        let mut fields = field_rules(&mut section);
        fields.sets_cache_salt = inject.is_some();
        let upstream = UpstreamConfig {
            usage,
            engine,
            name: name.clone().unwrap_or_default(),
            replicas: values(replicas),
            models: served.map(|served| values(Some(served))),
            credential: self.credential(&mut section),
            ca_file: section.text("ca_file", |text| {
                let path = value::path(text, self.folder)?;
                files::certificate_authorities(&path).map(|()| path)
            }),
            forward_headers: self.forward_headers(&mut section),
            aliases,
            inject,
            fields,
        };
        let location = section.location("name");
        section.reject_unknown_fields();
        name.map(|_| Located {
            location,
            value: upstream,
        })
    }

    fn inject(&self, section: &mut Section<'_>, secret_file: Option<&Path>) -> Option<Inject> {
        if !section.has("inject") {
            section.section("inject");
            return None;
        }
        let location = section.location("inject");
        let mut fields = section.section("inject");
        if fields.is_present() && !fields.has("cache_salt") {
            let fault = "is missing; write inject = { cache_salt = \"key\" }";
            fields.fault("cache_salt", fault);
        }
        let cache_salt = fields.text("cache_salt", |text| match text {
            "key" => Ok(SaltOwner::Key),
            "account" => Ok(SaltOwner::Account),
            _ => Err(format!(
                "is {}; write \"key\" or \"account\"",
                value::quoted(text)
            )),
        });
        fields.reject_unknown_fields();
        let Some(secret_file) = secret_file else {
            let fault = "has no file for its secret; correct [keys] or inject_secret_file";
            self.faults.add(&location, fault);
            return None;
        };
        let secret = InjectSecret::read(secret_file.to_owned());
        Some(Inject {
            secret: self.faults.record(&location, secret)?,
            cache_salt: cache_salt?,
        })
    }

    /// `served`: the upstream's models, if the config lists them.
    fn aliases(
        &self,
        section: &mut Section<'_>,
        served: Option<&[Located<String>]>,
        names: &mut CatalogueNames,
    ) -> Vec<(String, String)> {
        let mut aliases = Vec::new();
        let written = section.texts_by_name("aliases", value::name);
        for (alias, model) in written.into_iter().flatten() {
            let is_served =
                served.is_none_or(|served| served.iter().any(|known| known.value == model));
            if alias.value == model {
                let fault = "names itself; remove it, a model needs no alias of the same name";
                self.faults.add(&alias.location, fault);
            } else if !is_served {
                let model = value::quoted(&model);
                let fault = format!(
                    "leads to {model}, which is not in this upstream's models; name one of them"
                );
                self.faults.add(&alias.location, fault);
            }
            aliases.push((alias.value.clone(), model));
            names.aliases.push(alias);
        }
        aliases
    }

    /// An alias is a name of its own in the catalogue.
    fn reject_taken_aliases(&self, names: &CatalogueNames) {
        let mut known: HashMap<&str, usize> = HashMap::new();
        for Located { location, value } in &names.aliases {
            if let Some(line) = names.models.get(value) {
                let fault = format!(
                    "{} is a model of line {line} already; choose another name",
                    value::quoted(value)
                );
                self.faults.add(location, fault);
            } else if let Some(line) = known.insert(value, location.line()) {
                let fault = format!(
                    "{} is an alias of line {line} already; choose another name",
                    value::quoted(value)
                );
                self.faults.add(location, fault);
            }
        }
    }

    fn reject_duplicate_names(&self, upstreams: &[Located<UpstreamConfig>]) {
        let mut names = HashMap::new();
        for Located { location, value } in upstreams {
            if let Some(line) = names.insert(&value.name, location.line()) {
                let first = match line {
                    0 => "another --upstream".to_owned(),
                    line => format!("the upstream of line {line}"),
                };
                self.faults.add(
                    location,
                    format!(
                        "{} is the name of {first} too; choose another, or make one upstream with a list of urls",
                        value::quoted(&value.name)
                    ),
                );
            }
        }
    }

    fn forward_headers(&self, section: &mut Section<'_>) -> ForwardHeaders {
        let names = section.texts("forward_headers", |text| match text {
            "*" => Ok(text.to_owned()),
            name => ForwardHeaders::check_name(name)
                .map(|()| name.to_owned())
                .map_err(str::to_owned),
        });
        let names = names.unwrap_or_default();
        if !names.iter().any(|name| name.value == "*") {
            return ForwardHeaders::Named(values(Some(names)));
        }
        for name in names.iter().filter(|name| name.value != "*") {
            let message = "is one of \"*\" already; write \"*\" alone";
            self.faults.add(&name.location, message.to_owned());
        }
        ForwardHeaders::All
    }

    /// Messages here never contain the value: it may be the credential itself, written into the wrong field.
    fn credential(&self, section: &mut Section<'_>) -> Option<Credential> {
        if section.has("api_key_env") && section.has("api_key_file") {
            section.fault(
                "api_key_file",
                "stands beside api_key_env; keep one of the two",
            );
        }
        let from_environment = section.text("api_key_env", |name| {
            let value = (self.environment)(name).ok_or(
                "names an environment variable that is not set; set it for the gateway's process",
            )?;
            Credential::parse(&Zeroizing::new(value.into_encoded_bytes()))
        });
        let from_file = section.text("api_key_file", |text| {
            Credential::parse(&files::read(&value::path(text, self.folder)?)?)
        });
        from_environment.or(from_file)
    }
}

/// What the upstream takes in a body.
fn field_rules(section: &mut Section<'_>) -> FieldRules {
    let usual = FieldRules::USUAL;
    FieldRules {
        stateful: section.boolean("stateful").unwrap_or(usual.stateful),
        client_fields: section
            .text("client_fields", taken)
            .unwrap_or(usual.client_fields),
        unknown_fields: section
            .text("unknown_fields", taken)
            .unwrap_or(usual.unknown_fields),
        sets_cache_salt: usual.sets_cache_salt,
    }
}

fn taken(text: &str) -> Result<Taken, String> {
    match text {
        "pass" => Ok(Taken::Pass),
        "refuse" => Ok(Taken::Refuse),
        _ => Err(format!(
            "is {}; write \"pass\" or \"refuse\"",
            value::quoted(text)
        )),
    }
}

/// An upstream from its URL alone.
fn named_after_host(url: &str) -> Result<UpstreamConfig, String> {
    let replica = value::base_url(url)?;
    Ok(UpstreamConfig {
        name: format!("{}-{}", replica.host, replica.port),
        replicas: vec![replica],
        models: None,
        credential: None,
        ca_file: None,
        usage: UsageMode::default(),
        engine: None,
        forward_headers: ForwardHeaders::NONE,
        aliases: Vec::new(),
        inject: None,
        fields: FieldRules::USUAL,
    })
}
