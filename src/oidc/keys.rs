//! The keys that the provider signs with (JWK Set, RFC 7517, 7518 and 8037), and the check of a signature.
//!
//! Invariant: a key decides which algorithms are taken with it, by its type, its curve and its own `alg`. What a token
//! says only chooses among these, so neither `none` nor an HMAC with a public key as its secret is ever one of them.

use data_encoding::BASE64URL_NOPAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use serde::Deserialize;
use serde_json::Value;

use crate::oidc::error::TokenFault;

/// The provider's keys for signatures. Others are left out.
#[derive(Debug)]
pub(super) struct KeySet(Vec<SigningKey>);

#[derive(Debug)]
struct SigningKey {
    id: Option<String>,
    /// The only algorithm that it is for, if it says so.
    algorithm: Option<String>,
    material: KeyMaterial,
}

#[derive(Debug)]
enum KeyMaterial {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    /// An uncompressed point.
    P256(Vec<u8>),
    /// An uncompressed point.
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// A JSON Web Key (RFC 7517 4). Members that are not named here say nothing that matters.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a set. Keys that are not for signatures or of a kind that is not known are left out, as RFC 7517 5 wants.
    /// None: it is no set.
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        let set: JwkSet = serde_json::from_slice(json).ok()?;
        let keys = set.keys.into_iter();
        let keys = keys.filter_map(|key| SigningKey::new(serde_json::from_value(key).ok()?));
        Some(Self(keys.collect()))
    }

    /// Checks a signature by the key of this id, or without an id by any key.
    ///
    /// # Errors
    /// Why the signature is not taken.
    pub(super) fn verify(
        &self,
        algorithm: &str,
        id: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), TokenFault> {
        if !is_known(algorithm) {
            return Err(TokenFault::Algorithm);
        }
        let is_named = |key: &&SigningKey| id.is_none() || key.id.as_deref() == id;
        let named: Vec<_> = self.0.iter().filter(is_named).collect();
        if named.is_empty() {
            return Err(TokenFault::UnknownKey);
        }
        // Keys of different types may share an id (RFC 7517 4.5).
        let fitting: Vec<_> = named.iter().filter(|key| key.takes(algorithm)).collect();
        if fitting.is_empty() {
            return Err(TokenFault::Algorithm);
        }
        let verifies = fitting
            .iter()
            .any(|key| key.verifies(algorithm, message, signature));
        match (verifies, id) {
            (true, _) => Ok(()),
            (false, Some(_)) => Err(TokenFault::Signature),
            (false, None) => Err(TokenFault::UnknownKey),
        }
    }
}

impl SigningKey {
    fn new(jwk: Jwk) -> Option<Self> {
        let is_for_signatures = jwk.usage.is_none_or(|usage| usage == "sig")
            && jwk
                .key_ops
                .is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
        if !is_for_signatures {
            return None;
        }
        let bytes = |text: Option<String>| BASE64URL_NOPAD.decode(text?.as_bytes()).ok();
        let (x, y) = (bytes(jwk.x), bytes(jwk.y));
        let material = match (&*jwk.kty, jwk.crv.as_deref()) {
            ("RSA", _) => KeyMaterial::Rsa(RsaPublicKeyComponents {
                n: number(bytes(jwk.n)?),
                e: number(bytes(jwk.e)?),
            }),
            ("EC", Some("P-256")) => KeyMaterial::P256(point(&x?, &y?, 32)?),
            ("EC", Some("P-384")) => KeyMaterial::P384(point(&x?, &y?, 48)?),
            ("OKP", Some("Ed25519")) => KeyMaterial::Ed25519(x?),
            _ => return None,
        };
        Some(Self {
            id: jwk.kid,
            algorithm: jwk.alg,
            material,
        })
    }

    fn takes(&self, algorithm: &str) -> bool {
        let fits = match &self.material {
            KeyMaterial::Rsa(_) => rsa(algorithm).is_some(),
            KeyMaterial::P256(_) => algorithm == "ES256",
            KeyMaterial::P384(_) => algorithm == "ES384",
            KeyMaterial::Ed25519(_) => algorithm == "EdDSA",
        };
        fits && self.algorithm.as_ref().is_none_or(|only| only == algorithm)
    }

    /// Whether the signature is this key's, by an algorithm that it takes.
    fn verifies(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        let by = |verification: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(verification, key)
                .verify(message, signature)
                .is_ok()
        };
        match &self.material {
            KeyMaterial::Rsa(key) => rsa(algorithm)
                .is_some_and(|parameters| key.verify(parameters, message, signature).is_ok()),
            KeyMaterial::P256(key) => by(&ECDSA_P256_SHA256_FIXED, key),
            KeyMaterial::P384(key) => by(&ECDSA_P384_SHA384_FIXED, key),
            KeyMaterial::Ed25519(key) => by(&ED25519, key),
        }
    }
}

fn is_known(algorithm: &str) -> bool {
    rsa(algorithm).is_some() || matches!(algorithm, "ES256" | "ES384" | "EdDSA")
}

fn rsa(algorithm: &str) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        "RS256" => &RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &RSA_PSS_2048_8192_SHA256,
        "PS384" => &RSA_PSS_2048_8192_SHA384,
        "PS512" => &RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

/// Without leading zeros, which some providers write and ring does not take.
fn number(mut bytes: Vec<u8>) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.drain(..zeros);
    bytes
}

/// An uncompressed point (SEC 1, 2.3.3). Whether it is on the curve, ring checks.
fn point(x: &[u8], y: &[u8], length: usize) -> Option<Vec<u8>> {
    (x.len() == length && y.len() == length).then(|| [&[4], x, y].concat())
}
