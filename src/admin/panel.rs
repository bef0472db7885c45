//! The panel's files, compiled in. They contain no data: the panel reads all data from the API, with a session.
//!
//! Invariant: nothing outside [`FILES`] is served, and [`FILES`] lists every file in `panel/`, which a test checks.

use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH,
    REFERRER_POLICY,
};
use http::{HeaderMap, StatusCode};

use crate::admin::error::ApiError;
use crate::admin::response::ApiResponse;

/// A file of the panel.
#[derive(PartialEq, Eq)]
pub(super) struct PanelFile {
    name: &'static str,
    content: &'static [u8],
}

macro_rules! files {
    ($($name:literal,)*) => {
        &[$(PanelFile { name: $name, content: include_bytes!(concat!("panel/", $name)) },)*]
    };
}

/// Every file in `panel/`: the page, served as `/`, and the files it loads from `/panel/`.
static FILES: &[PanelFile] = files![
    "account-form.js",
    "accounts.js",
    "activity.js",
    "api.js",
    "bulk.js",
    "ceilings.js",
    "chart.js",
    "created.js",
    "csv.js",
    "dashboard.js",
    "dom.js",
    "explain.js",
    "field.js",
    "fleet.js",
    "form.js",
    "format.js",
    "icon.svg",
    "index.html",
    "invitation.js",
    "key-actions.js",
    "key-filters.js",
    "key-form.js",
    "key-limits.js",
    "key-page.js",
    "key-row.js",
    "keys.js",
    "main.js",
    "makers.js",
    "members.js",
    "model-picker.js",
    "models.js",
    "networks.js",
    "new-token.js",
    "overlay.js",
    "panel.css",
    "refusals.js",
    "reload.js",
    "rotate.js",
    "rule-fields.js",
    "session-secret.js",
    "session.js",
    "sessions.js",
    "sign-in.js",
    "snippets.js",
    "usage-report.js",
    "usage.js",
    "who.js",
];

const PAGE: &str = "index.html";

/// The page loads only files of this server, runs only scripts from files, and may not be shown in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      font-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

impl std::fmt::Debug for PanelFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl PanelFile {
    /// The file of a path.
    pub(super) fn at(path: &str) -> Option<&'static Self> {
        let name = match path {
            "/" => PAGE,
            _ => path.strip_prefix("/panel/").filter(|name| *name != PAGE)?,
        };
        FILES.iter().find(|file| file.name == name)
    }

    fn kind(&self) -> Option<&'static str> {
        let (_, extension) = self.name.rsplit_once('.')?;
        Some(match extension {
            "html" => "text/html; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "js" => "text/javascript; charset=utf-8",
            "json" => "application/json",
            "svg" => "image/svg+xml",
            "png" => "image/png",
            "woff2" => "font/woff2",
            "txt" => "text/plain; charset=utf-8",
            _ => return None,
        })
    }

    /// The file, or 304 if the client has it.
    pub(super) fn response(&self, headers: &HeaderMap) -> Result<ApiResponse, ApiError> {
        let tag = format!("\"{}\"", &blake3::hash(self.content).to_hex()[..32]);
        let reply = if is_known(&tag, headers) {
            ApiResponse::empty(StatusCode::NOT_MODIFIED)
        } else {
            ApiResponse::file(self.kind().unwrap_or_default(), self.content)
        };
        let tag = HeaderValue::try_from(tag).map_err(|_| ApiError::Internal)?;
        let fixed = HeaderValue::from_static;
        Ok(reply
            .with(ETAG, tag)
            .with(CACHE_CONTROL, fixed("no-cache"))
            .with(CONTENT_SECURITY_POLICY, fixed(POLICY))
            .with(REFERRER_POLICY, fixed("no-referrer"))
            .with(OPENER_POLICY, fixed("same-origin")))
    }
}

const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// Whether the client has the file with this tag (RFC 9110 13.1.2).
fn is_known(tag: &str, headers: &HeaderMap) -> bool {
    let lines = headers.get_all(IF_NONE_MATCH).iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    fn names_below(folder: &Path, prefix: &str, names: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
            if path.is_dir() {
                names_below(&path, &format!("{name}/"), names);
            } else {
                names.insert(name);
            }
        }
    }

    #[test]
    fn every_file_of_the_panel_is_served_as_what_it_is() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/panel");
        let mut there = BTreeSet::new();
        names_below(&folder, "", &mut there);
        let listed: BTreeSet<String> = FILES.iter().map(|file| file.name.to_owned()).collect();
        assert_eq!(listed, there, "FILES lists what stands in src/admin/panel");
        for file in FILES {
            assert!(file.kind().is_some(), "{file:?} is of no known kind");
        }
    }

    #[test]
    fn a_path_outside_the_list_is_no_file() {
        assert_eq!(PanelFile::at("/").unwrap().name, "index.html");
        for path in [
            "",
            "//",
            "/panel",
            "/panel/",
            "/panel/index.html",
            "/panel//index.html",
            "/index.html",
            "/panel/../mod.rs",
            "/panel/%69ndex.html",
            "/PANEL/panel.css",
        ] {
            assert_eq!(PanelFile::at(path), None, "{path}");
        }
    }

    #[test]
    fn the_whole_panel_has_at_most_313_kilobytes() {
        let bytes: usize = FILES.iter().map(|file| file.content.len()).sum();
        assert!(bytes < 313_000, "{bytes}");
    }

    #[test]
    fn a_tag_is_known_however_it_is_listed() {
        for (line, known) in [
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\", \"a\"", true),
            ("*", true),
            ("\"b\"", false),
            ("a", false),
            ("", false),
        ] {
            let headers = [(IF_NONE_MATCH, HeaderValue::from_static(line))];
            let headers = headers.into_iter().collect();
            assert_eq!(is_known("\"a\"", &headers), known, "{line}");
        }
    }
}
