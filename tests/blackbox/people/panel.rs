//! A gateway with the panel, and people who use the calls that the panel's page makes.

use serde_json::{Value, json};

use crate::support::client::{Call, Client, Response};
use crate::support::gateway::Gateway;
use crate::support::stand::Stand;

pub const PASSWORD: &str = "correct horse battery staple";
pub const OTHER_PASSWORD: &str = "blue duck in the green water";

/// A gateway whose admin API listens over TCP, with the account `acme`.
pub fn stand() -> Stand {
    let stand = Stand::with(|setup| {
        let setup = setup.set("admin", "listen = \"127.0.0.1:0\"");
        setup.secret(PASSWORD).secret(OTHER_PASSWORD)
    });
    run(&stand.gateway, &["accounts", "create", "acme"]);
    stand
}

/// What a command prints that succeeds.
#[track_caller]
pub fn run(gateway: &Gateway, arguments: &[&str]) -> String {
    let ran = gateway.run(arguments, "");
    assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.err);
    ran.out
}

/// Invites somebody by the command line; the code of the link.
#[track_caller]
pub fn invite(gateway: &Gateway, account: &str, email: &str, role: &str) -> String {
    code_of(&run(gateway, &["invite", account, email, "--role", role]))
}

/// The code of a link that stands alone.
#[track_caller]
pub fn code_of(printed: &str) -> String {
    let link = printed.strip_suffix('\n').expect("a line");
    assert!(link.starts_with("http://127.0.0.1:"), "{link}");
    let (_, code) = link.split_once("/#invitation=").expect("an invitation");
    assert!(!code.contains(char::is_whitespace), "{link}");
    code.to_owned()
}

/// A call as the panel's page makes it.
pub fn from_panel(method: &str, path: &str, body: &Value) -> Call {
    let call = Call::new(method, path)
        .header("content-type", "application/json")
        .header("x-keygate-panel", "1");
    match body {
        Value::Null => call,
        body => call.body(body.to_string()),
    }
}

/// Signs in with these fields.
pub fn sign_in(gateway: &Gateway, fields: &Value) -> Response {
    Client::connect(gateway.admin_address()).ask(&from_panel("POST", "/api/session", fields))
}

pub fn by_password(gateway: &Gateway, email: &str, password: &str) -> Response {
    sign_in(gateway, &json!({"email": email, "password": password}))
}

pub fn accept(gateway: &Gateway, code: &str, password: &str) -> Response {
    sign_in(gateway, &json!({"invitation": code, "password": password}))
}

/// A person who is signed in.
pub struct Person {
    /// The cookie's name and value.
    cookie: String,
    secret: String,
    /// What the sign-in answered with.
    pub session: Value,
}

impl Person {
    /// Who this answer has signed in.
    #[track_caller]
    pub fn of(response: &Response) -> Self {
        assert_eq!(response.status, 200, "{}", response.text());
        let cookie = response.header("set-cookie").expect("a cookie");
        let (cookie, flags) = cookie.split_once("; ").expect("flags");
        assert!(flags.contains("HttpOnly") && flags.contains("SameSite=Strict"));
        let session = response.json();
        Self {
            cookie: cookie.to_owned(),
            secret: session["secret"].as_str().expect("a secret").to_owned(),
            session,
        }
    }

    /// Somebody who is invited to an account and accepts.
    #[track_caller]
    pub fn invited(gateway: &Gateway, account: &str, email: &str, role: &str) -> Self {
        let code = invite(gateway, account, email, role);
        Self::of(&accept(gateway, &code, PASSWORD))
    }

    /// A call in the person's session.
    pub fn call(&self, method: &str, path: &str, body: &Value) -> Call {
        from_panel(method, path, body)
            .header("cookie", &self.cookie)
            .header("x-keygate-session", &self.secret)
    }

    pub fn ask(&self, gateway: &Gateway, method: &str, path: &str, body: &Value) -> Response {
        Client::connect(gateway.admin_address()).ask(&self.call(method, path, body))
    }

    /// The status of the person's own page: 200 while the session lives.
    pub fn lives(&self, gateway: &Gateway) -> u16 {
        let shown = self.ask(gateway, "GET", "/api/session", &Value::Null);
        shown.status
    }

    /// Makes a key; its id and its token.
    #[track_caller]
    pub fn create_key(&self, gateway: &Gateway) -> (String, String) {
        let new = json!({"name": "web", "model_access": {"mode": "all"}});
        let created = self.ask(gateway, "POST", "/api/keys", &new);
        assert_eq!(created.status, 201, "{}", created.text());
        let created = created.json();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        (text(&created["key"]["id"]), text(&created["token"]))
    }
}
