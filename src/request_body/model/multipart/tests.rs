//! Reading the model of a form.

use super::*;
use crate::policy::documented_fields::Documented;
use crate::policy::route::{self, Route};
use crate::request_body::model::name::ModelError;
use proptest::prelude::*;

mod clients;
mod delimiters;
mod names;
mod part_headers;

type Verdict = Result<Result<String, ModelError>, MultipartError>;

/// Whether unknown fields are noted or not does not change the verdict.
fn read_with(boundary: &str, body: &[u8], extra_fields: ExtraModelFields) -> Verdict {
    let boundary = Boundary::new(boundary.as_bytes()).unwrap();
    let Ok(Route::Forward(endpoint)) = route::of("POST", "/v1/audio/transcriptions") else {
        panic!("the path is not served");
    };
    let verdict = |documented| {
        read(&boundary, body, extra_fields, documented)
            .map(|findings| findings.into_model().map(Cow::into_owned))
    };
    let plain = verdict(None);
    assert_eq!(verdict(Some(Documented::of(endpoint))), plain);
    plain
}

/// The result for a complete body with the boundary `BX`.
fn model(body: impl AsRef<[u8]>) -> Verdict {
    read_with("BX", body.as_ref(), ExtraModelFields::Refused)
}

fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (headers, content) in parts {
        body.extend_from_slice(format!("--BX\r\n{headers}\r\n\r\n").as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--BX--\r\n");
    body
}

const MODEL_PART: (&str, &[u8]) = ("Content-Disposition: form-data; name=\"model\"", b"good");
const FILE_PART: (&str, &[u8]) = (
    "Content-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav",
    b"RIFF\n--\r\n\r\n--B\r\n \0\xff",
);

/// The result for a form with the usual model, and another part with this Content-Disposition.
fn beside(disposition: &str) -> Verdict {
    model(form(&[
        MODEL_PART,
        (&format!("Content-Disposition: {disposition}"), b"bad"),
    ]))
}

fn alone(disposition: &str) -> Verdict {
    model(form(&[(
        &format!("Content-Disposition: {disposition}"),
        b"good",
    )]))
}

fn named(name: &str) -> Verdict {
    Ok(Ok(name.to_owned()))
}

fn ambiguous(ambiguity: Ambiguity) -> Verdict {
    Ok(Err(ModelError::Ambiguous(ambiguity)))
}

#[test]
fn the_model_is_read_wherever_its_part_stands() {
    assert_eq!(model(form(&[MODEL_PART])), named("good"));
    assert_eq!(model(form(&[MODEL_PART, FILE_PART])), named("good"));
    assert_eq!(
        model(form(&[FILE_PART, MODEL_PART, FILE_PART])),
        named("good")
    );
}

#[test]
fn a_model_after_twenty_five_megabytes_is_read_like_one_before() {
    let large: Vec<u8> = (0_u32..25 << 20)
        .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    let file = (FILE_PART.0, large.as_slice());
    assert_eq!(model(form(&[file, MODEL_PART])), named("good"));
    assert_eq!(
        model(form(&[MODEL_PART, file, MODEL_PART])),
        ambiguous(Ambiguity::Twice)
    );
}

#[test]
fn a_form_without_a_filled_model_is_missing_one() {
    assert_eq!(model("--BX--"), Ok(Err(ModelError::Missing)));
    assert_eq!(model(form(&[FILE_PART])), Ok(Err(ModelError::Missing)));
    assert_eq!(
        model(form(&[(MODEL_PART.0, b"")])),
        Ok(Err(ModelError::Missing))
    );
}

#[test]
fn the_value_is_the_content_byte_for_byte() {
    for value in [
        "good ",
        " good",
        "good\n",
        "\"good\"",
        "go\0od",
        "ä",
        "\u{feff}good",
        "a\r\nb",
    ] {
        assert_eq!(
            model(form(&[(MODEL_PART.0, value.as_bytes())])),
            named(value),
            "{value:?}"
        );
    }
    assert_eq!(
        model(form(&[(MODEL_PART.0, b"\xff")])),
        Err(MultipartError::ModelNotUtf8)
    );
}

#[test]
fn sixty_four_parts_are_taken_and_more_refused() {
    let other = ("Content-Disposition: form-data; name=\"x\"", &b""[..]);
    let parts = |count: usize| [vec![other; count - 1], vec![MODEL_PART]].concat();
    assert_eq!(model(form(&parts(64))), named("good"));
    assert_eq!(model(form(&parts(65))), Err(MultipartError::TooManyParts));
}

#[test]
fn an_invalid_form_is_reported_before_an_ambiguous_model() {
    let body = form(&[MODEL_PART, MODEL_PART]);
    assert_eq!(model(&body[..body.len() - 4]), Err(MultipartError::NoEnd));
}

proptest! {
    #[test]
    fn any_contents_are_split_where_they_were_joined(
        files in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..5),
        place in any::<prop::sample::Index>(),
        name in "[a-z0-9:./-]{1,30}",
    ) {
        let place = place.index(files.len() + 1);
        let mut parts: Vec<(&str, &[u8])> = files.iter().map(|file| (FILE_PART.0, file.as_slice())).collect();
        parts.insert(place, (MODEL_PART.0, name.as_bytes()));
        let holds_delimiter = files.iter().any(|file| memmem::find(file, b"--BX").is_some());
        prop_assume!(!holds_delimiter);
        prop_assert_eq!(model(form(&parts)), named(&name));
    }

    #[test]
    fn no_bytes_at_all_make_it_panic(
        pieces in prop::collection::vec(prop_oneof![
            prop::sample::select(vec![
                &b"--BX"[..], b"\r\n", b"\n", b"\r", b"--", b"Content-Disposition: form-data; name=\"model\"",
                b"; name=", b"good", b":", b"\"", b"\\", b"[", b"%6", b"name", b"=", b"*",
            ]).prop_map(<[u8]>::to_vec),
            prop::collection::vec(any::<u8>(), 0..4),
        ], 0..40),
        framed in any::<bool>(),
    ) {
        let content = pieces.concat();
        let body = if framed { [b"--BX\r\nContent-Disposition: form-data; ", &content[..], b"\r\n--BX--"].concat() } else { content };
        let _ = model(body);
    }
}
