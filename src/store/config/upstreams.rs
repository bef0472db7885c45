//! Reads the config's upstreams with their credentials.

use std::collections::HashMap;

use zeroize::Zeroizing;

use crate::store::config::sections::{ConfigReader, values};
use crate::store::config::tree::{Located, Location, Section};
use crate::store::config::usage::{UsageMode, usage_of_upstream};
use crate::store::config::{Credential, UpstreamConfig, files, value};

impl ConfigReader<'_> {
    pub(crate) fn upstreams(&self, root: &mut Section<'_>) -> Vec<UpstreamConfig> {
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
        let mut models = HashMap::new();
        let from_file: Vec<_> = sections
            .into_iter()
            .flatten()
            .filter_map(|section| self.upstream(section, &mut models))
            .collect();
        self.reject_duplicate_names(&from_file);
        self.reject_duplicate_names(&from_flags);
        values(Some(if self.overrides.upstreams.is_empty() {
            from_file
        } else {
            from_flags
        }))
    }

    /// `models`: the models of earlier upstreams, each with its line.
    fn upstream(
        &self,
        mut section: Section<'_>,
        models: &mut HashMap<String, usize>,
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
            if let Some(line) = models.insert(value.clone(), location.line()) {
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
        };
        let location = section.location("name");
        section.reject_unknown_fields();
        name.map(|_| Located {
            location,
            value: upstream,
        })
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
            credential(Zeroizing::new(value.into_encoded_bytes()))
        });
        let from_file = section.text("api_key_file", |text| {
            credential(files::read(&value::path(text, self.folder)?)?)
        });
        from_environment.or(from_file)
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
    })
}

fn credential(bytes: Zeroizing<Vec<u8>>) -> Result<Credential, String> {
    let bytes = bytes.trim_ascii();
    if bytes.is_empty() {
        return Err("leads to nothing; put the credential there".to_owned());
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.iter().all(u8::is_ascii_graphic) => Ok(Credential(text.to_owned())),
        _ => Err(
            "leads to more than one word of visible ASCII; put the credential there, and nothing else"
                .to_owned(),
        ),
    }
}
