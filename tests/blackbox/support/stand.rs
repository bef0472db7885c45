//! The setup that most tests begin with: an upstream that answers, a gateway before it, and a key of each model access.

use super::gateway::{Gateway, Setup};
use super::recorder::Recorder;
use super::token::Key;

/// Upstream, gateway, and keys: `all` may use everything, `only` the model good, `all_but` all but bad.
pub struct Stand {
    pub gateway: Gateway,
    pub up: Recorder,
    pub all: Key,
    pub only: Key,
    pub all_but: Key,
}

impl Stand {
    pub fn new() -> Self {
        Self::with(|setup| setup)
    }

    /// The same, with more in its config or key file.
    pub fn with(more: impl FnOnce(Setup) -> Setup) -> Self {
        Self::before(Recorder::answering(), more)
    }

    /// Before an upstream whose requests the test answers.
    pub fn held() -> Self {
        Self::before(Recorder::held(), |setup| setup)
    }

    pub fn held_with(more: impl FnOnce(Setup) -> Setup) -> Self {
        Self::before(Recorder::held(), more)
    }

    pub fn before(up: Recorder, more: impl FnOnce(Setup) -> Setup) -> Self {
        let all = Key::all("key_all");
        let only = Key::only("key_only", &["good"]);
        let all_but = Key::all_but("key_all_but", &["bad"]);
        let setup = Setup::before(&up).keys(&[&all, &only, &all_but]);
        let gateway = more(setup).start();
        Self {
            gateway,
            up,
            all,
            only,
            all_but,
        }
    }
}
