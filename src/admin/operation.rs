//! The calls of the API: which method and path is which [`Operation`].

use crate::admin::error::ApiError;
use crate::admin::panel::PanelFile;

/// A call of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation<'p> {
    Health,
    Ready,
    Metrics,
    ListKeys,
    CreateKey,
    ShowKey(&'p str),
    ChangeKey(&'p str),
    DeleteKey(&'p str),
    RotateKey(&'p str),
    ExpirePrevious(&'p str),
    ResetBudgets(&'p str),
    ListAccounts,
    CreateAccount,
    ShowAccount(&'p str),
    ChangeAccount(&'p str),
    DeleteAccount(&'p str),
    ListMembers(&'p str),
    ChangeMember(&'p str, &'p str),
    RemoveMember(&'p str, &'p str),
    ResetPassword(&'p str, &'p str),
    ListInvitations(&'p str),
    Invite(&'p str),
    RevokeInvitation(&'p str, &'p str),
    Reload,
    AcceptRollback,
    TestAlert,
    Status,
    Gateways,
    Models,
    Overview,
    Refusals,
    Usage,
    UsageRecords,
    Audit,
    VerifyAudit,
    Explain,
    SignInWays,
    BeginProviderSignIn,
    EndProviderSignIn,
    LookAtInvitation,
    SignIn,
    MakeSignInLink,
    ShowSession,
    SignOut,
    ListSessions,
    EndSession(&'p str),
    OpenApi,
    PanelFile(&'static PanelFile),
}

/// Every method that some path has.
const METHODS: [&str; 5] = ["GET", "HEAD", "POST", "PATCH", "DELETE"];

impl<'p> Operation<'p> {
    /// The operation of a method and a path; both are compared byte for byte. HEAD is served wherever GET is (RFC 9110
    /// 9.1); the body is left out where the response is written.
    pub(super) fn of(method: &str, path: &'p str) -> Option<Self> {
        let method = match method {
            "HEAD" => "GET",
            other => other,
        };
        Some(match (method, path) {
            ("GET", "/healthz") => Self::Health,
            ("GET", "/readyz") => Self::Ready,
            ("GET", "/metrics") => Self::Metrics,
            ("GET", "/api/keys") => Self::ListKeys,
            ("POST", "/api/keys") => Self::CreateKey,
            ("GET", "/api/accounts") => Self::ListAccounts,
            ("POST", "/api/accounts") => Self::CreateAccount,
            ("POST", "/api/reload") => Self::Reload,
            ("POST", "/api/fleet/accept-rollback") => Self::AcceptRollback,
            ("POST", "/api/alerts/test") => Self::TestAlert,
            ("GET", "/api/status") => Self::Status,
            ("GET", "/api/fleet") => Self::Gateways,
            ("GET", "/api/models") => Self::Models,
            ("GET", "/api/overview") => Self::Overview,
            ("GET", "/api/refusals") => Self::Refusals,
            ("GET", "/api/usage") => Self::Usage,
            ("GET", "/api/usage/records") => Self::UsageRecords,
            ("GET", "/api/audit") => Self::Audit,
            ("GET", "/api/audit/verify") => Self::VerifyAudit,
            ("POST", "/api/explain") => Self::Explain,
            ("GET", "/api/sign-in") => Self::SignInWays,
            ("GET", "/api/sign-in/oidc") => Self::BeginProviderSignIn,
            ("GET", "/api/sign-in/callback") => Self::EndProviderSignIn,
            ("POST", "/api/invitations/look") => Self::LookAtInvitation,
            ("POST", "/api/session") => Self::SignIn,
            ("POST", "/api/session-links") => Self::MakeSignInLink,
            ("GET", "/api/session") => Self::ShowSession,
            ("DELETE", "/api/session") => Self::SignOut,
            ("GET", "/api/sessions") => Self::ListSessions,
            ("GET", "/api/openapi.json") => Self::OpenApi,
            (_, path) => {
                if let Some(file) = PanelFile::at(path) {
                    return (method == "GET").then_some(Self::PanelFile(file));
                }
                if let Some(rest) = path.strip_prefix("/api/accounts/") {
                    return Self::of_account(method, rest);
                }
                if let Some(id) = path.strip_prefix("/api/sessions/") {
                    let is_one = method == "DELETE" && !id.is_empty() && !id.contains('/');
                    return is_one.then_some(Self::EndSession(id));
                }
                let rest = path.strip_prefix("/api/keys/")?;
                let (id, call) = match rest.split_once('/') {
                    Some((id, call)) => (id, Some(call)),
                    None => (rest, None),
                };
                if id.is_empty() {
                    return None;
                }
                match (method, call) {
                    ("GET", None) => Self::ShowKey(id),
                    ("PATCH", None) => Self::ChangeKey(id),
                    ("DELETE", None) => Self::DeleteKey(id),
                    ("POST", Some("rotate")) => Self::RotateKey(id),
                    ("POST", Some("expire-previous")) => Self::ExpirePrevious(id),
                    ("POST", Some("reset-budgets")) => Self::ResetBudgets(id),
                    _ => return None,
                }
            }
        })
    }

    /// `rest` is what follows `/api/accounts/`.
    fn of_account(method: &str, rest: &'p str) -> Option<Self> {
        let parts: Vec<&'p str> = rest.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return None;
        }
        Some(match (method, &parts[..]) {
            ("GET", [id]) => Self::ShowAccount(id),
            ("PATCH", [id]) => Self::ChangeAccount(id),
            ("DELETE", [id]) => Self::DeleteAccount(id),
            ("GET", [id, "members"]) => Self::ListMembers(id),
            ("PATCH", [id, "members", person]) => Self::ChangeMember(id, person),
            ("DELETE", [id, "members", person]) => Self::RemoveMember(id, person),
            ("POST", [id, "members", person, "reset-password"]) => Self::ResetPassword(id, person),
            ("GET", [id, "invitations"]) => Self::ListInvitations(id),
            ("POST", [id, "invitations"]) => Self::Invite(id),
            ("DELETE", [id, "invitations", invitation]) => Self::RevokeInvitation(id, invitation),
            _ => return None,
        })
    }

    /// The error for a path without an operation: the path is unknown, or it has other methods.
    pub(super) fn missing(path: &str) -> ApiError {
        let allow: Vec<&str> = METHODS
            .into_iter()
            .filter(|method| Operation::of(method, path).is_some())
            .collect();
        if allow.is_empty() {
            ApiError::UnknownPath
        } else {
            ApiError::MethodNotAllowed(allow.join(", "))
        }
    }
}
