//! What a header field is to the gateway, by its name: which lines it judges by, which it sets itself, and which pass to
//! an upstream or to a client.
//!
//! What goes upstream is a list of what may, so that a header which some server obeys and nobody here has heard of stays
//! behind. An operator adds to it for each upstream ([`ForwardHeaders`]), but never a credential or an identity.

use crate::policy::field_kind::FieldKind::{
    Accept, AcceptEncoding, AcceptOther, AccessControlRequestHeaders, ApiKey, Authorization,
    Connection, ContentEncoding, ContentLength, ContentOther, ContentType, Date, Digest, Expect,
    Forwarded, HopByHop, Host, NotToClient, NotToUpstream, Origin, Other, TransferEncoding,
    UnusualName, XForwardedFor, XForwardedOther, XForwardedProto, XRequestId,
};

/// What a header field is to the gateway. Variants without a line of their own are the fields of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "a field's name says it")]
pub enum FieldKind {
    /// Nothing of its own: it passes to clients, and to upstreams whose config names it.
    Other,
    /// It passes in both directions.
    Forwarded,
    /// Its name has another character than letters, digits and `-`: CGI-style servers read `x_real_ip` and `x.real.ip` as
    /// `x-real-ip`, so it does not go upstream.
    UnusualName,
    /// Valid between two hops only (RFC 9110 7.6.1).
    HopByHop,
    /// A credential, an identity, or a word that steers some upstream: it does not go there.
    NotToUpstream,
    /// A server's word about itself, about the browser's other pages, or to a proxy in front of it: clients do not get
    /// the upstream's, and in a request it means nothing.
    NotToClient,
    /// A digest of the body's bytes as sent (RFC 9530 and what came before it).
    Digest,
    /// Accept and Accept-Language.
    Accept,
    /// An encoded response cannot be looked at, so upstreams are not asked for one.
    AcceptEncoding,
    /// Every other name that begins with `accept-`.
    AcceptOther,
    AccessControlRequestHeaders,
    /// `api-key` and `x-api-key`.
    ApiKey,
    Authorization,
    Connection,
    ContentEncoding,
    ContentLength,
    /// Every other name that begins with `content-`.
    ContentOther,
    ContentType,
    Date,
    Expect,
    Host,
    Origin,
    TransferEncoding,
    XForwardedFor,
    /// Every other name that begins with `x-forwarded-`.
    XForwardedOther,
    XForwardedProto,
    XRequestId,
}

/// How many kinds there are.
pub const FIELD_KINDS: usize = XRequestId as usize + 1;

/// Names that are known as a whole, in lower case.
const NAMES: [(&str, FieldKind); 137] = [
    ("accept", Accept),
    ("accept-encoding", AcceptEncoding),
    ("accept-language", Accept),
    (
        "access-control-request-headers",
        AccessControlRequestHeaders,
    ),
    ("api-key", ApiKey),
    ("authorization", Authorization),
    ("connection", Connection),
    ("content-digest", Digest),
    ("content-encoding", ContentEncoding),
    ("content-length", ContentLength),
    ("content-md5", Digest),
    ("content-type", ContentType),
    ("date", Date),
    ("digest", Digest),
    ("expect", Expect),
    ("host", Host),
    ("origin", Origin),
    ("repr-digest", Digest),
    ("transfer-encoding", TransferEncoding),
    ("x-api-key", ApiKey),
    ("x-forwarded-for", XForwardedFor),
    ("x-forwarded-proto", XForwardedProto),
    ("x-request-id", XRequestId),
    // What OpenAI's and Anthropic's clients say about themselves and the version that they speak, and what tracing needs.
    ("anthropic-beta", Forwarded),
    ("anthropic-dangerous-direct-browser-access", Forwarded),
    ("anthropic-version", Forwarded),
    ("baggage", Forwarded),
    ("idempotency-key", Forwarded),
    ("openai-beta", Forwarded),
    ("openai-version", Forwarded),
    ("referer", Forwarded),
    ("traceparent", Forwarded),
    ("tracestate", Forwarded),
    ("user-agent", Forwarded),
    ("x-app", Forwarded),
    ("x-title", Forwarded),
    // RFC 9110 7.6.1 and RFC 9113 8.2.2. Names that begin with `proxy-` are in PREFIXES.
    ("http2-settings", HopByHop),
    ("keep-alive", HopByHop),
    ("te", HopByHop),
    ("trailer", HopByHop),
    ("upgrade", HopByHop),
    // Credentials of other products and places.
    ("apikey", NotToUpstream),
    ("auth", NotToUpstream),
    ("cookie", NotToUpstream),
    ("cookie2", NotToUpstream),
    ("dpop", NotToUpstream),
    ("ocp-apim-subscription-key", NotToUpstream),
    ("openai-organization", NotToUpstream),
    ("openai-project", NotToUpstream),
    ("private-token", NotToUpstream),
    ("subscription-key", NotToUpstream),
    ("token", NotToUpstream),
    ("x-access-token", NotToUpstream),
    ("x-apikey", NotToUpstream),
    ("x-auth", NotToUpstream),
    ("x-authorization", NotToUpstream),
    ("x-bearer-token", NotToUpstream),
    ("x-csrf-token", NotToUpstream),
    ("x-functions-key", NotToUpstream),
    ("x-hf-token", NotToUpstream),
    ("x-id-token", NotToUpstream),
    ("x-jwt", NotToUpstream),
    ("x-openai-api-key", NotToUpstream),
    ("x-rapidapi-key", NotToUpstream),
    ("x-session-token", NotToUpstream),
    ("x-token", NotToUpstream),
    ("x-vault-token", NotToUpstream),
    // Who the client is, as a proxy in front would say it. RFC 9440, Authelia, oauth2-proxy, Cloudflare, Akamai, Fly,
    // Netlify, APISIX.
    ("client-cert", NotToUpstream),
    ("client-cert-chain", NotToUpstream),
    ("client-ip", NotToUpstream),
    ("fly-client-ip", NotToUpstream),
    ("forwarded", NotToUpstream),
    ("from", NotToUpstream),
    ("remote-email", NotToUpstream),
    ("remote-groups", NotToUpstream),
    ("remote-name", NotToUpstream),
    ("remote-user", NotToUpstream),
    ("true-client-ip", NotToUpstream),
    ("x-client-ip", NotToUpstream),
    ("x-cluster-client-ip", NotToUpstream),
    ("x-email", NotToUpstream),
    ("x-groups", NotToUpstream),
    ("x-nf-client-connection-ip", NotToUpstream),
    ("x-originating-ip", NotToUpstream),
    ("x-real-ip", NotToUpstream),
    ("x-role", NotToUpstream),
    ("x-roles", NotToUpstream),
    ("x-user", NotToUpstream),
    ("x-userinfo", NotToUpstream),
    ("x-username", NotToUpstream),
    // Another method or path than the one that was judged.
    ("modal-key", NotToUpstream),
    ("x-key", NotToUpstream),
    ("x-bf-vk", NotToUpstream),
    // Which server, worker or model a router takes: llm-d, SGLang's gateway, AIBrix, Envoy AI Gateway, Ray Serve, Azure ML.
    ("azureml-model-deployment", NotToUpstream),
    ("model", NotToUpstream),
    ("routing-strategy", NotToUpstream),
    ("serve-multiplexed-model-id", NotToUpstream),
    ("target-pod", NotToUpstream),
    ("x-ai-eg-model", NotToUpstream),
    ("x-host", NotToUpstream),
    ("x-model", NotToUpstream),
    ("x-request-uri", NotToUpstream),
    ("x-rewrite-uri", NotToUpstream),
    ("x-tenant-id", NotToUpstream),
    ("x-uid", NotToUpstream),
    ("x-forwarded", NotToUpstream),
    ("forwarded-for", NotToUpstream),
    ("x-scope-orgid", NotToUpstream),
    ("impersonate-group", NotToUpstream),
    ("x-method-override", NotToUpstream),
    ("x-rewrite-url", NotToUpstream),
    // A server about itself.
    ("alt-svc", NotToClient),
    ("request-id", NotToClient),
    ("server", NotToClient),
    ("set-cookie", NotToClient),
    ("set-cookie2", NotToClient),
    ("www-authenticate", NotToClient),
    // To a browser, about more than this response.
    ("accept-ch", NotToClient),
    ("clear-site-data", NotToClient),
    ("critical-ch", NotToClient),
    ("expect-ct", NotToClient),
    ("link", NotToClient),
    ("nel", NotToClient),
    ("observe-browsing-topics", NotToClient),
    ("origin-agent-cluster", NotToClient),
    ("public-key-pins", NotToClient),
    ("refresh", NotToClient),
    ("report-to", NotToClient),
    ("reporting-endpoints", NotToClient),
    ("service-worker-allowed", NotToClient),
    ("sourcemap", NotToClient),
    ("speculation-rules", NotToClient),
    ("strict-transport-security", NotToClient),
    // To a proxy in front: nginx, lighttpd, Apache, Perlbal. Names that begin with `x-accel-` are in PREFIXES.
    ("x-lighttpd-send-file", NotToClient),
    ("x-lighttpd-send-tempfile", NotToClient),
    ("x-reproxy-url", NotToClient),
    ("x-sendfile", NotToClient),
];

/// Beginnings of names that are not known as a whole, in lower case. The first that fits counts.
const PREFIXES: [(&str, FieldKind); 58] = [
    ("x-stainless-", Forwarded),
    ("accept-", AcceptOther),
    ("access-control-", NotToClient),
    ("content-", ContentOther),
    ("proxy-", HopByHop),
    ("x-accel-", NotToClient),
    ("x-forwarded-", XForwardedOther),
    ("x-ratelimit-", NotToClient),
    ("anthropic-ratelimit-", NotToClient),
    ("x-keygate-", NotToUpstream),
    // Another method or path than the one that was judged.
    ("x-http-method", NotToUpstream),
    ("x-original-", NotToUpstream),
    // Other gateways, and engines that route or configure by headers.
    ("helicone-", NotToUpstream),
    ("x-data-parallel-", NotToUpstream),
    ("x-envoy-", NotToUpstream),
    ("x-encoder-", NotToUpstream),
    ("x-decode-", NotToUpstream),
    ("x-prefill", NotToUpstream),
    ("x-smg-", NotToUpstream),
    ("x-worker-", NotToUpstream),
    ("x-gateway-", NotToUpstream),
    ("x-litellm-", NotToUpstream),
    ("x-llm-d-", NotToUpstream),
    ("x-override-", NotToUpstream),
    ("x-portkey-", NotToUpstream),
    ("x-routing-", NotToUpstream),
    ("x-semantic-router-", NotToUpstream),
    ("x-vllm-", NotToUpstream),
    // Who the client is, as a proxy in front would say it: Cloudflare, Google, Amazon, Microsoft, Fastly, Kong, Tyk,
    // Tailscale, Pomerium, Authentik, oauth2-proxy, Vouch, Okta, Hasura, Vercel, and servers that end TLS.
    ("cf-", NotToUpstream),
    ("fastly-", NotToUpstream),
    ("ssl-client-", NotToUpstream),
    ("tailscale-", NotToUpstream),
    ("x-amz", NotToUpstream),
    ("x-anonymous-", NotToUpstream),
    ("x-appengine-", NotToUpstream),
    ("x-arr-", NotToUpstream),
    ("x-auth-", NotToUpstream),
    ("x-authenticated-", NotToUpstream),
    ("x-authentik-", NotToUpstream),
    ("x-azure-", NotToUpstream),
    ("x-client-cert", NotToUpstream),
    ("x-consumer-", NotToUpstream),
    ("x-credential-", NotToUpstream),
    ("x-goog-", NotToUpstream),
    ("x-hasura-", NotToUpstream),
    ("x-jwt-", NotToUpstream),
    ("x-ms-", NotToUpstream),
    ("x-oauth-", NotToUpstream),
    ("x-okta-", NotToUpstream),
    ("x-pomerium-", NotToUpstream),
    ("x-remote-", NotToUpstream),
    ("x-ssl-", NotToUpstream),
    ("x-tls-", NotToUpstream),
    ("x-tyk-", NotToUpstream),
    ("x-user-", NotToUpstream),
    ("x-vercel-", NotToUpstream),
    ("x-vouch-", NotToUpstream),
    ("x-webauth-", NotToUpstream),
];

/// How many groups [`NAMES`] are sorted into.
const GROUPS: usize = 256;
/// The indexes of [`NAMES`] by group; and for each group where its names begin.
const BY_GROUP: ([u8; NAMES.len()], [u8; GROUPS + 1]) = by_group();

/// The group of a name that is not empty: by its length and three of its bytes, in any case. The factors spread the names
/// so that most groups have one or none.
const fn group_of(name: &[u8]) -> usize {
    let length = name.len();
    let first = (name[0] | 0x20) as usize;
    let middle = (name[length / 2] | 0x20) as usize;
    let last = (name[length - 1] | 0x20) as usize;
    (27 * first + 33 * middle + 53 * last + 101 * (length % GROUPS)) % GROUPS
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "there are fewer than 256 names"
)]
const fn by_group() -> ([u8; NAMES.len()], [u8; GROUPS + 1]) {
    let (mut indexes, mut starts) = ([0; NAMES.len()], [0; GROUPS + 1]);
    let (mut index, mut group) = (0, 0);
    while index < NAMES.len() {
        starts[group_of(NAMES[index].0.as_bytes()) + 1] += 1;
        index += 1;
    }
    while group < GROUPS {
        starts[group + 1] += starts[group];
        group += 1;
    }
    let mut next = starts;
    index = 0;
    while index < NAMES.len() {
        let group = group_of(NAMES[index].0.as_bytes());
        indexes[next[group] as usize] = index as u8;
        next[group] += 1;
        index += 1;
    }
    (indexes, starts)
}

/// For the low bits of a name's byte, which of [`PREFIXES`] can fit: one bit each.
type Candidates = [u64; 32];
/// By the first byte, and for names that begin with `x-` by the byte behind that.
const BY_BYTE: (Candidates, Candidates) = by_byte();

const fn by_byte() -> (Candidates, Candidates) {
    let (mut by_first, mut by_third) = ([0; 32], [0; 32]);
    let mut index = 0;
    while index < PREFIXES.len() {
        // More than 64 would not build: the shift would overflow.
        let prefix = PREFIXES[index].0.as_bytes();
        if prefix[0] == b'x' && prefix[1] == b'-' {
            by_third[(prefix[2] & 31) as usize] |= 1 << index;
        } else {
            by_first[(prefix[0] & 31) as usize] |= 1 << index;
        }
        index += 1;
    }
    (by_first, by_third)
}

/// Whether a name is the known one in any case. A known name is of lower-case letters, digits and `-`, which the bit that
/// tells the cases apart maps from nothing else but control characters; the parsers let none into a name.
fn is_same(known: &[u8], name: &[u8]) -> bool {
    const BIT: u64 = 0x2020_2020_2020_2020;
    if known.len() != name.len() {
        return false;
    }
    let (known, known_rest) = known.as_chunks::<8>();
    let (name, name_rest) = name.as_chunks::<8>();
    known
        .iter()
        .zip(name)
        .all(|(known, name)| u64::from_ne_bytes(*known) == u64::from_ne_bytes(*name) | BIT)
        && known_rest
            .iter()
            .zip(name_rest)
            .all(|(known, name)| *known == *name | 0x20)
}

/// Characters of names that no server takes for another name.
fn is_usual(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || *byte == b'-'
}

/// Ends of names that carry a credential or an identity, in lower case.
const SECRET_ENDS: [&str; 12] = [
    "-token",
    "-secret",
    "-api-key",
    "-access-key",
    "-secret-key",
    "-password",
    "authorization",
    "-authentication",
    "-user",
    "-userid",
    "-user-id",
    "-client-ip",
];

fn is_secret(name: &[u8]) -> bool {
    SECRET_ENDS.iter().any(|end| {
        let start = name.len().checked_sub(end.len());
        start.is_some_and(|start| name[start..].eq_ignore_ascii_case(end.as_bytes()))
    })
}

/// Whether a request's line goes to its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToUpstream {
    /// As it came.
    Always,
    /// Where the upstream's config names it.
    IfListed,
    /// Not at all, or as the gateway sets it.
    Never,
}

impl FieldKind {
    /// The kind of a field name, in any case.
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        if name.is_empty() {
            return Other;
        }
        let (indexes, starts) = &BY_GROUP;
        let group = group_of(name);
        for place in starts[group]..starts[group + 1] {
            let (known, kind) = NAMES[usize::from(indexes[usize::from(place)])];
            if is_same(known.as_bytes(), name) {
                return kind;
            }
        }
        Self::by_prefix(name)
    }

    /// The kind of a name that is not known as a whole.
    fn by_prefix(name: &[u8]) -> Self {
        let (by_first, by_third) = &BY_BYTE;
        let mut candidates = match name {
            [b'x' | b'X', b'-', byte, ..] => by_third[usize::from(byte & 31)],
            [byte, ..] => by_first[usize::from(byte & 31)],
            [] => 0,
        };
        let mut known = Other;
        while candidates != 0 {
            let (prefix, kind) = PREFIXES[candidates.trailing_zeros() as usize];
            let start = name.get(..prefix.len());
            if start.is_some_and(|start| is_same(prefix.as_bytes(), start)) {
                known = kind;
                break;
            }
            candidates &= candidates - 1;
        }
        match known {
            kind @ (HopByHop | NotToClient | NotToUpstream) => kind,
            _ if !name.iter().all(is_usual) => UnusualName,
            Other if is_secret(name) => NotToUpstream,
            kind => kind,
        }
    }

    /// Whether a request's line of this kind goes to its upstream.
    #[must_use]
    pub fn to_upstream(self) -> ToUpstream {
        match self {
            Accept | Forwarded => ToUpstream::Always,
            Other
            | AcceptOther
            | AccessControlRequestHeaders
            | ContentOther
            | Date
            | Digest
            | Origin => ToUpstream::IfListed,
            UnusualName | HopByHop | NotToClient | NotToUpstream | AcceptEncoding | ApiKey
            | Authorization | Connection | ContentEncoding | ContentLength | ContentType
            | Expect | Host | TransferEncoding | XForwardedFor | XForwardedOther
            | XForwardedProto | XRequestId => ToUpstream::Never,
        }
    }

    /// Whether a response's line of this kind is passed on to the client. Its length is written anew.
    #[must_use]
    pub fn passes_to_client(self) -> bool {
        match self {
            HopByHop
            | NotToClient
            | AccessControlRequestHeaders
            | Connection
            | ContentLength
            | TransferEncoding
            | XRequestId => false,
            Other | Forwarded | UnusualName | NotToUpstream | Accept | AcceptEncoding
            | AcceptOther | ApiKey | Authorization | ContentEncoding | ContentOther
            | ContentType | Date | Digest | Expect | Host | Origin | XForwardedFor
            | XForwardedOther | XForwardedProto => true,
        }
    }

    /// Whether the gateway judges a request by fields of this kind, or sets them: a client must not have them removed
    /// by naming them in Connection (RFC 9110 7.6.1).
    #[must_use]
    pub fn is_judged_or_set(self) -> bool {
        match self {
            Accept | AcceptEncoding | AcceptOther | ApiKey | Authorization | ContentEncoding
            | ContentLength | ContentOther | ContentType | Digest | Expect | Host
            | XForwardedFor | XForwardedOther | XForwardedProto | XRequestId => true,
            Other
            | Forwarded
            | UnusualName
            | HopByHop
            | NotToUpstream
            | NotToClient
            | AccessControlRequestHeaders
            | Connection
            | Date
            | Origin
            | TransferEncoding => false,
        }
    }
}

/// Header fields that an upstream gets besides those that always pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardHeaders {
    /// These names, in any case.
    Named(Vec<String>),
    /// Every name, save credentials, identities and hop-by-hop fields.
    All,
}

impl ForwardHeaders {
    /// No others.
    pub const NONE: Self = Self::Named(Vec::new());

    /// Whether a client's line of this name passes. Only for a line that is [`ToUpstream::IfListed`].
    #[must_use]
    pub fn lists(&self, name: &[u8]) -> bool {
        match self {
            Self::Named(names) => names
                .iter()
                .any(|listed| listed.as_bytes().eq_ignore_ascii_case(name)),
            Self::All => true,
        }
    }

    /// Whether a name can be listed.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    pub fn check_name(name: &str) -> Result<(), &'static str> {
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(
                "is not the name of a header; write one like \"x-tenant\", or \"*\" alone for every other",
            );
        }
        match FieldKind::of(name.as_bytes()) {
            UnusualName => Err(
                "has another character than letters, digits and -, which some servers read as -; such headers are never sent upstream, so remove it",
            ),
            HopByHop | Connection | TransferEncoding | Expect => {
                Err("is for one connection only and never sent upstream; remove it")
            }
            NotToUpstream | Authorization | ApiKey => Err(
                "is a credential, an identity or steers servers, and never sent upstream; remove it",
            ),
            kind => match kind.to_upstream() {
                ToUpstream::Always | ToUpstream::IfListed => Ok(()),
                ToUpstream::Never => Err("is set or dropped by the gateway itself; remove it"),
            },
        }
    }
}

#[cfg(test)]
mod tests;
