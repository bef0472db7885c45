//! What an ID token proves, attack by attack.

use std::slice::from_ref;

use data_encoding::BASE64URL_NOPAD;
use proptest::prelude::*;
use ring::hmac;
use serde_json::{Value, json};

use super::NOW;
use super::signer::{Signer, token};
use crate::oidc::error::TokenFault;
use crate::oidc::id_token::{Expected, verify};
use crate::oidc::keys::KeySet;

const EXPECTED: Expected<'_> = Expected {
    issuer: "https://login.example.com",
    client_id: "keygate",
    nonce: "n-0S6",
};

fn claims() -> Value {
    json!({
        "iss": "https://login.example.com",
        "aud": "keygate",
        "sub": "248289",
        "nonce": "n-0S6",
        "iat": NOW.seconds(),
        "exp": NOW.seconds() + 300,
    })
}

fn with(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims();
    claims[name] = value.into();
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name).unwrap();
    claims
}

fn set(keys: &[Value]) -> KeySet {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

#[track_caller]
fn accepts(token: &str, keys: &[Value]) {
    if let Err(fault) = verify(token, &set(keys), EXPECTED, NOW) {
        panic!("{fault:?}: {token}");
    }
}

#[track_caller]
fn refuses(token: &str, keys: &[Value], fault: TokenFault) {
    let verified = verify(token, &set(keys), EXPECTED, NOW);
    assert_eq!(verified.unwrap_err(), fault, "{token}");
}

/// Whether a token of these claims, signed as it should be, is taken.
#[track_caller]
fn judges(claims: &Value, expected: Result<(), TokenFault>) {
    let signer = Signer::rsa("a");
    let token = signer.token("RS256", claims);
    let verified = verify(&token, &set(&[signer.jwk()]), EXPECTED, NOW);
    assert_eq!(verified.map(drop), expected, "{claims}");
}

#[test]
fn every_algorithm_that_fits_its_key_is_taken() {
    let (rsa, ed) = (Signer::rsa("r"), Signer::ed25519("d"));
    let (p256, p384) = (Signer::p256("c"), Signer::p384("e"));
    let keys = [rsa.jwk(), ed.jwk(), p256.jwk(), p384.jwk()];
    for algorithm in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
        accepts(&rsa.token(algorithm, &claims()), &keys);
    }
    accepts(&p256.token("ES256", &claims()), &keys);
    accepts(&p384.token("ES384", &claims()), &keys);
    accepts(&ed.token("EdDSA", &claims()), &keys);
}

#[test]
fn a_token_without_a_signature_is_refused() {
    let signer = Signer::rsa("a");
    for algorithm in ["none", "None", "NONE", ""] {
        for header in [
            json!({"alg": algorithm}),
            json!({"alg": algorithm, "kid": "a"}),
        ] {
            let unsigned = token(&header, &claims(), |_| Vec::new());
            refuses(&unsigned, &[signer.jwk()], TokenFault::Algorithm);
            let signed = signer.token_with(header, &claims());
            refuses(&signed, &[signer.jwk()], TokenFault::Algorithm);
        }
    }
    let signed = signer.token("RS256", &claims());
    let (message, _) = signed.rsplit_once('.').unwrap();
    refuses(
        &format!("{message}."),
        &[signer.jwk()],
        TokenFault::Signature,
    );
    refuses(message, &[signer.jwk()], TokenFault::Malformed);
}

#[test]
fn a_public_key_is_no_secret_of_an_hmac() {
    let jwk = Signer::rsa("a").jwk();
    let modulus = BASE64URL_NOPAD.decode(jwk["n"].as_str().unwrap().as_bytes());
    let secrets = [
        modulus.unwrap(),
        jwk["n"].to_string().into_bytes(),
        jwk.to_string().into_bytes(),
        Vec::new(),
    ];
    for secret in secrets {
        for (name, algorithm) in [
            ("HS256", hmac::HMAC_SHA256),
            ("HS384", hmac::HMAC_SHA384),
            ("HS512", hmac::HMAC_SHA512),
        ] {
            let key = hmac::Key::new(algorithm, &secret);
            let header = json!({"alg": name, "kid": "a"});
            let forged = token(&header, &claims(), |message| {
                hmac::sign(&key, message).as_ref().to_vec()
            });
            refuses(&forged, from_ref(&jwk), TokenFault::Algorithm);
            // Also where the provider publishes its secret by mistake.
            let mut symmetric = json!({"kty": "oct", "kid": "a", "alg": name});
            symmetric["k"] = BASE64URL_NOPAD.encode(&secret).into();
            refuses(&forged, &[symmetric], TokenFault::Algorithm);
        }
    }
}

#[test]
fn an_algorithm_of_another_key_type_is_refused() {
    let (rsa, ed) = (Signer::rsa("r"), Signer::ed25519("d"));
    let (p256, p384) = (Signer::p256("c"), Signer::p384("e"));
    let keys = [rsa.jwk(), ed.jwk(), p256.jwk(), p384.jwk()];
    for (signer, algorithms) in [
        (&rsa, &["ES256", "ES384", "EdDSA"][..]),
        (&p256, &["RS256", "PS256", "ES384", "EdDSA"]),
        (&p384, &["RS256", "ES256", "EdDSA"]),
        (&ed, &["RS256", "ES256"]),
    ] {
        for algorithm in algorithms {
            let token = signer.token(algorithm, &claims());
            refuses(&token, &keys, TokenFault::Algorithm);
        }
    }
}

#[test]
fn a_key_that_names_its_algorithm_takes_no_other() {
    let signer = Signer::rsa("a");
    let mut jwk = signer.jwk();
    jwk["alg"] = "RS256".into();
    accepts(&signer.token("RS256", &claims()), &[jwk.clone()]);
    for algorithm in ["RS512", "PS256"] {
        let token = signer.token(algorithm, &claims());
        refuses(&token, &[jwk.clone()], TokenFault::Algorithm);
    }
    jwk["alg"] = "RSA-OAEP".into();
    let token = signer.token("RS256", &claims());
    refuses(&token, &[jwk], TokenFault::Algorithm);
}

#[test]
fn a_key_for_encryption_verifies_nothing_also_where_it_shares_an_id() {
    let (signer, other) = (Signer::p256("a"), Signer::p256("a"));
    let token = signer.token("ES256", &claims());
    let as_encryption = |mut jwk: Value| {
        jwk["use"] = "enc".into();
        jwk
    };
    let encryption = as_encryption(signer.jwk());
    refuses(&token, from_ref(&encryption), TokenFault::UnknownKey);
    refuses(&token, &[encryption, other.jwk()], TokenFault::Signature);
    accepts(&token, &[as_encryption(other.jwk()), signer.jwk()]);
    let mut jwk = signer.jwk();
    jwk.as_object_mut().unwrap().remove("use");
    accepts(&token, &[jwk.clone()]);
    jwk["key_ops"] = json!(["encrypt", "wrapKey"]);
    refuses(&token, &[jwk.clone()], TokenFault::UnknownKey);
    jwk["key_ops"] = json!(["verify"]);
    accepts(&token, &[jwk]);
}

#[test]
fn a_token_of_another_key_is_refused() {
    let (signer, other) = (Signer::p256("a"), Signer::p256("b"));
    let token = signer.token("ES256", &claims());
    refuses(&token, &[other.jwk()], TokenFault::UnknownKey);
    let mut impostor = other.jwk();
    impostor["kid"] = "a".into();
    refuses(&token, &[impostor], TokenFault::Signature);
    refuses(&token, &[], TokenFault::UnknownKey);
}

#[test]
fn a_token_without_a_key_id_is_of_any_key() {
    let (signer, other) = (Signer::p256("a"), Signer::p256("b"));
    let token = signer.token_with(json!({"alg": "ES256"}), &claims());
    accepts(&token, &[other.jwk(), signer.jwk()]);
    refuses(&token, &[other.jwk()], TokenFault::UnknownKey);
}

#[test]
fn a_key_inside_a_token_is_not_looked_at() {
    let (signer, forger) = (Signer::p256("a"), Signer::p256("a"));
    for (name, value) in [
        ("jwk", forger.jwk()),
        ("jku", "https://attacker.example.com/keys".into()),
        ("x5u", "https://attacker.example.com/chain".into()),
    ] {
        let mut header = json!({"alg": "ES256", "kid": "a"});
        header[name] = value;
        let token = forger.token_with(header, &claims());
        refuses(&token, &[signer.jwk()], TokenFault::Signature);
    }
}

#[test]
fn a_token_with_an_extension_is_refused() {
    let signer = Signer::p256("a");
    for critical in [json!(["b64"]), json!([]), json!("exp")] {
        let header = json!({"alg": "ES256", "kid": "a", "crit": critical, "b64": false});
        let token = signer.token_with(header, &claims());
        refuses(&token, &[signer.jwk()], TokenFault::Extension);
    }
}

#[test]
fn a_changed_token_is_refused_wherever_it_is_changed() {
    let signer = Signer::p256("a");
    let keys = [signer.jwk()];
    let token = signer.token("ES256", &claims());
    let other = signer.token("ES256", &with("sub", "root"));
    let parts = |token: &str| token.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (mine, theirs) = (parts(&token), parts(&other));
    let mixed = format!("{}.{}.{}", mine[0], theirs[1], mine[2]);
    refuses(&mixed, &keys, TokenFault::Signature);
    for text in [
        String::new(),
        "..".to_owned(),
        format!("{token}."),
        format!("{token}="),
        format!(" {token}"),
        format!("{token}.{}", mine[2]),
        format!("{}.{}", mine[0], mine[1]),
        format!("x.{}.{}", mine[1], mine[2]),
    ] {
        let verified = verify(&text, &set(&keys), EXPECTED, NOW);
        assert!(verified.is_err(), "{text:?}");
    }
}

#[test]
fn a_header_that_says_two_things_is_refused() {
    let part = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
    for header in [
        r#"{"alg":"none","alg":"ES256"}"#,
        r#"{"alg":["ES256"]}"#,
        r#"{"kid":"a"}"#,
        r#"["ES256"]"#,
    ] {
        let text = format!("{}.{}.", part(header), part(&claims().to_string()));
        refuses(&text, &[], TokenFault::Malformed);
    }
}

#[test]
fn a_token_of_another_issuer_is_refused() {
    for issuer in [
        json!("https://login.example.com/"),
        json!("https://LOGIN.example.com"),
        json!("http://login.example.com"),
        json!(["https://login.example.com"]),
        json!(null),
    ] {
        judges(&with("iss", issuer), Err(TokenFault::Issuer));
    }
    judges(&without("iss"), Err(TokenFault::Issuer));
}

#[test]
fn a_token_for_another_client_is_refused() {
    judges(&with("aud", json!(["keygate"])), Ok(()));
    for audience in [
        json!("other"),
        json!(["other"]),
        json!([]),
        json!({"keygate": 1}),
    ] {
        judges(&with("aud", audience), Err(TokenFault::Audience));
    }
    judges(&without("aud"), Err(TokenFault::Audience));
}

#[test]
fn a_token_for_two_clients_needs_this_one_as_its_authorized_party() {
    let mut claims = with("aud", json!(["other", "keygate"]));
    judges(&claims, Err(TokenFault::AuthorizedParty));
    claims["azp"] = "other".into();
    judges(&claims, Err(TokenFault::AuthorizedParty));
    claims["azp"] = "keygate".into();
    judges(&claims, Ok(()));
    judges(&with("azp", "other"), Err(TokenFault::AuthorizedParty));
}

#[test]
fn a_token_of_another_sign_in_is_refused() {
    judges(&with("nonce", "other"), Err(TokenFault::Nonce));
    judges(&with("nonce", ""), Err(TokenFault::Nonce));
    judges(&without("nonce"), Err(TokenFault::Nonce));
}

#[test]
fn a_token_is_taken_from_when_it_is_issued_until_it_expires_with_a_minute_for_clocks() {
    let now = NOW.seconds();
    judges(&with("exp", now - 59), Ok(()));
    judges(&with("exp", now - 60), Err(TokenFault::Expired));
    judges(&with("iat", now + 60), Ok(()));
    judges(&with("iat", now + 61), Err(TokenFault::TooEarly));
    judges(&with("nbf", now + 60), Ok(()));
    judges(&with("nbf", now + 61), Err(TokenFault::TooEarly));
    judges(&with("exp", i64::MAX), Ok(()));
    judges(&with("exp", 1e300), Ok(()));
    judges(&with("iat", i64::MIN), Ok(()));
    let fraction = f64::from(u32::try_from(now).unwrap()) + 0.5;
    judges(&with("iat", fraction), Ok(()));
}

#[test]
fn a_token_without_its_times_is_refused() {
    judges(&without("iat"), Err(TokenFault::NoTime));
    judges(&without("exp"), Err(TokenFault::NoTime));
    for name in ["iat", "exp", "nbf"] {
        for value in [json!("1800000000"), json!(null), json!([1_800_000_000])] {
            judges(&with(name, value), Err(TokenFault::Malformed));
        }
    }
}

#[test]
fn a_token_without_a_subject_is_refused() {
    judges(&without("sub"), Err(TokenFault::NoSubject));
    for subject in [json!(""), json!(7), json!(null), json!("x".repeat(256))] {
        judges(&with("sub", subject), Err(TokenFault::NoSubject));
    }
    judges(&with("sub", "x".repeat(255)), Ok(()));
}

#[test]
fn keys_that_cannot_be_used_are_left_out_of_a_set() {
    let signer = Signer::p256("a");
    let token = signer.token("ES256", &claims());
    let mut short = signer.jwk();
    short["x"] = "AAAA".into();
    let mut padded = signer.jwk();
    padded["y"] = format!("{}=", padded["y"].as_str().unwrap()).into();
    let keys = [
        json!(null),
        json!({}),
        json!({"kty": "RSA", "kid": "a"}),
        json!({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA", "kid": "a"}),
        json!({"kty": 7, "kid": "a"}),
        short,
        padded,
        signer.jwk(),
    ];
    accepts(&token, &keys);
    refuses(&token, &keys[..7], TokenFault::UnknownKey);
    for text in ["", "[]", "{}", "{\"keys\":{}}", "{\"keys\":null}"] {
        assert!(KeySet::parse(text.as_bytes()).is_none(), "{text}");
    }
}

#[test]
fn a_modulus_may_be_written_with_leading_zeros() {
    let signer = Signer::rsa("a");
    let mut jwk = signer.jwk();
    let mut modulus = BASE64URL_NOPAD
        .decode(jwk["n"].as_str().unwrap().as_bytes())
        .unwrap();
    modulus.insert(0, 0);
    jwk["n"] = BASE64URL_NOPAD.encode(&modulus).into();
    accepts(&signer.token("RS256", &claims()), &[jwk]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_token_and_no_set_panics(token in "[A-Za-z0-9_.-]{0,80}", set in "\\PC{0,80}") {
        let keys = KeySet::parse(b"{\"keys\":[]}").unwrap();
        let _ = verify(&token, &keys, EXPECTED, NOW);
        let _ = KeySet::parse(set.as_bytes());
    }
}
