//! What is fed, each with what must hold of whatever it is fed.

pub mod admin_body;
pub mod audio;
pub mod bearer;
pub mod config;
pub mod form_model;
pub mod forwarded_for;
pub mod http1;
pub mod json_model;
pub mod key_line;
pub mod lazy_form;
pub mod usage;

/// Something that is fed bytes.
pub trait Target {
    /// What it is called.
    const NAME: &'static str;
    /// What mutations insert.
    const FRAGMENTS: &'static [&'static str];
    /// The words that [`Self::check`] has to say at least once.
    const WORDS: &'static [&'static str];

    /// Where mutation begins.
    fn examples(&self) -> Vec<Vec<u8>>;

    /// Panics where the promise is broken; else says what became of the input.
    fn check(&self, input: &[u8]) -> &'static str;
}

/// The examples as the mutator takes them.
pub fn bytes_of(examples: &[&str]) -> Vec<Vec<u8>> {
    examples
        .iter()
        .map(|example| example.as_bytes().to_vec())
        .collect()
}

/// A complaint to a person: one line that shows nothing but what can be seen, and says something.
pub fn assert_helpful(message: &str) {
    assert!(message.len() > 15, "says nothing: {message:?}");
    assert!(
        !message.chars().any(char::is_control),
        "a control character: {message:?}"
    );
}
