//! Every parser that strangers feed, fed with mutations: no input makes one panic, and none makes one disagree with a
//! plain reference that was written from the contract alone, or with serde_json.
//!
//! Each target, in `targets/`, is a function of bytes that panics where its promise is broken and else says in a word
//! what became of them. A word never heard before makes the bytes a parent of further mutations. How long:
//! `KEYGATE_FUZZ_SECONDS` for each target (a moment where it is not set; `bash tests/run fuzz` gives each thirty
//! seconds). A failure prints its bytes, and its seed for `KEYGATE_FUZZ_SEED`. The same targets run under cargo-fuzz,
//! whose mutations follow the code's branches: see `fuzz/`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a target that cannot go on has found something, and says what"
)]

mod dice;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use dice::{Dice, mutate, number, recombine, seed};
use targets::{
    Target, admin_body, audio, bearer, config, form_model, forwarded_for, http1, json_model,
    key_line, usage,
};

/// Inputs that are kept as parents for each word.
const KEPT: usize = 64;
/// Longer inputs teach nothing more.
const LONGEST: usize = 4096;

/// Feeds a target until its time is over, and holds it to have said every word that it must be able to say: a target
/// that refuses everything, or takes everything, would prove nothing.
fn hunt<T: Target>(target: &T) {
    let mut hunt = Hunt {
        target,
        seed: seed(),
        cases: 0,
        heard: Vec::new(),
    };
    let mut dice = Dice(hunt.seed);
    let examples = target.examples();
    for example in &examples {
        hunt.feed(example.clone(), &mut dice);
    }
    let until = Instant::now() + Duration::from_secs(number("KEYGATE_FUZZ_SECONDS", 1));
    while Instant::now() < until {
        for _ in 0..64 {
            let mut bytes = hunt.parent(&examples, &mut dice);
            if dice.roll(4) == 0 {
                let other = hunt.parent(&examples, &mut dice);
                recombine(&mut dice, &mut bytes, &other);
            }
            mutate(&mut dice, &mut bytes, T::FRAGMENTS);
            bytes.truncate(LONGEST);
            hunt.feed(bytes, &mut dice);
        }
    }
    let Hunt {
        seed, cases, heard, ..
    } = hunt;
    let tally: Vec<(&str, u64)> = heard
        .iter()
        .map(|heard| (heard.word, heard.count))
        .collect();
    eprintln!("{}: {cases} cases of seed {seed}: {tally:?}", T::NAME);
    for word in T::WORDS {
        assert!(
            tally.iter().any(|(heard, _)| heard == word),
            "{}: never heard {word:?} in {cases} cases of seed {seed}",
            T::NAME
        );
    }
}

struct Hunt<'t, T> {
    target: &'t T,
    seed: u64,
    cases: u64,
    heard: Vec<Heard>,
}

/// What a target said, how often, and some of what it said it of.
struct Heard {
    word: &'static str,
    count: u64,
    parents: Vec<Vec<u8>>,
}

impl<T: Target> Hunt<'_, T> {
    fn feed(&mut self, bytes: Vec<u8>, dice: &mut Dice) {
        self.cases += 1;
        let checked = catch_unwind(AssertUnwindSafe(|| self.target.check(&bytes)));
        let word = checked.unwrap_or_else(|_| {
            panic!(
                "{}, case {} of KEYGATE_FUZZ_SEED={}: b\"{}\"",
                T::NAME,
                self.cases,
                self.seed,
                bytes.escape_ascii()
            )
        });
        let at = self.heard.iter().position(|heard| heard.word == word);
        let at = at.unwrap_or_else(|| {
            self.heard.push(Heard {
                word,
                count: 0,
                parents: Vec::new(),
            });
            self.heard.len() - 1
        });
        let heard = &mut self.heard[at];
        heard.count += 1;
        if heard.parents.len() < KEPT {
            heard.parents.push(bytes);
        } else if dice.roll(64) == 0 {
            heard.parents[dice.roll(KEPT)] = bytes;
        }
    }

    /// An example, or what a mutation made of one; every word's as often, however rarely it is said.
    fn parent(&self, examples: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
        let among = if dice.roll(2) == 0 {
            examples
        } else {
            &self.heard[dice.roll(self.heard.len())].parents
        };
        among[dice.roll(among.len())].clone()
    }
}

#[test]
fn no_authorization_header_is_read_otherwise_than_the_contract_says() {
    hunt(&bearer::Bearer);
}

#[test]
fn no_line_of_a_key_file_is_taken_that_is_not_json_or_that_reads_back_as_another_key() {
    hunt(&key_line::KeyLine);
}

#[test]
fn no_json_body_is_taken_that_serde_json_refuses_or_reads_another_model_in() {
    hunt(&json_model::JsonModel);
}

#[test]
fn no_form_is_taken_in_which_other_parsers_find_another_model() {
    hunt(&form_model::FormModel::default());
}

#[test]
fn no_list_of_forwarding_proxies_is_walked_otherwise_than_the_contract_says() {
    hunt(&forwarded_for::ForwardedFor);
}

#[test]
fn no_config_is_read_differently_twice_or_blamed_for_a_line_it_does_not_have() {
    hunt(&config::ConfigFile::default());
}

#[test]
fn no_body_of_the_admin_api_is_taken_for_another_key_than_it_says() {
    hunt(&admin_body::AdminBody);
}

#[test]
fn no_request_is_read_otherwise_for_how_it_comes_or_when_written_again() {
    hunt(&http1::Http1);
}

#[test]
fn no_file_makes_the_length_of_an_audio_file_a_panic_or_long_work() {
    hunt(&audio::AudioFile::default());
}

#[test]
fn no_response_gives_other_counts_or_other_bytes_for_how_it_comes() {
    hunt(&usage::UsageOfResponse);
}
