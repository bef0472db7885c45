//! The audit rows: who changed what. [`audit_chain`](crate::policy::audit_chain) chains them by hashes.

/// From where a change came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeVia {
    /// The admin socket.
    Socket,
    /// A session of the panel.
    Panel,
    /// The admin API over TCP, with the admin token.
    Api,
    /// The key file or a signal.
    File,
    /// The gateway itself.
    Gateway,
}

impl ChangeVia {
    const ALL: [Self; 5] = [
        Self::Socket,
        Self::Panel,
        Self::Api,
        Self::File,
        Self::Gateway,
    ];

    /// Its name in the database and in the admin API.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Panel => "panel",
            Self::Api => "api",
            Self::File => "file",
            Self::Gateway => "gateway",
        }
    }

    /// The way of a name.
    #[must_use]
    pub fn of_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|via| via.label() == label)
    }
}

/// Who asked for a change, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeOrigin {
    /// `uid 1000`, `operator`, `SIGHUP`, `unknown`, or `gateway`.
    pub actor: String,
    /// From where.
    pub via: ChangeVia,
    /// The client's address, if it is known.
    pub address: Option<String>,
    /// The id of the call to the admin API.
    pub request_id: Option<String>,
}

impl ChangeOrigin {
    /// A change of the key file that the gateway finds.
    #[must_use]
    pub fn key_file() -> Self {
        Self {
            actor: "operator".to_owned(),
            via: ChangeVia::File,
            address: None,
            request_id: None,
        }
    }

    /// What the gateway does by itself.
    #[must_use]
    pub fn gateway() -> Self {
        Self {
            actor: "gateway".to_owned(),
            via: ChangeVia::Gateway,
            address: None,
            request_id: None,
        }
    }
}

impl std::fmt::Display for ChangeOrigin {
    /// The form in log lines, as `who`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let address = self.address.as_deref().unwrap_or("unknown");
        match self.via {
            ChangeVia::Socket | ChangeVia::Gateway | ChangeVia::File => f.write_str(&self.actor),
            ChangeVia::Panel => write!(f, "panel from {address}"),
            ChangeVia::Api => write!(f, "admin token from {address}"),
        }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditAction {
    /// A key was created.
    Create,
    /// A key was changed.
    Change,
    /// A key's token was replaced.
    Rotate,
    /// The token that the last rotation replaced was ended.
    ExpirePrevious,
    /// The budgets of a key were begun anew within their periods.
    ResetBudgets,
    /// A key was deleted.
    Delete,
    /// An account was created.
    CreateAccount,
    /// An account was changed.
    ChangeAccount,
    /// An account was deleted.
    DeleteAccount,
    /// Somebody was invited to an account.
    Invite,
    /// An invitation was taken back.
    RevokeInvitation,
    /// An invitation was accepted.
    AcceptInvitation,
    /// A link was made by which a member sets a new password.
    ResetPassword,
    /// A member's role was changed.
    ChangeMember,
    /// A member was removed from an account.
    RemoveMember,
    /// A role that a claim gave is gone, since the claim is.
    LoseMember,
    /// A change of the key file was loaded.
    Reload,
    /// The same, with force, where it drops more keys than the limit allows.
    ForcedDrop,
    /// A change has a row, but could not be written to the key file and is not in force.
    NotWritten,
    /// At the start the key file has not what the newest row of a key says.
    DiffersAtStart,
    /// Somebody signed in to the panel.
    SignIn,
    /// A wrong admin token or sign-in link was shown.
    SignInFailed,
    /// Somebody signed out.
    SignOut,
    /// A link to the panel was made that signs in once.
    MakeSignInLink,
    /// Old rows were deleted.
    Cut,
    /// More rows had to wait for the database than are kept in memory.
    RowsLost,
}

impl AuditAction {
    const ALL: [Self; 26] = [
        Self::Create,
        Self::Change,
        Self::Rotate,
        Self::ExpirePrevious,
        Self::ResetBudgets,
        Self::Delete,
        Self::CreateAccount,
        Self::ChangeAccount,
        Self::DeleteAccount,
        Self::Invite,
        Self::RevokeInvitation,
        Self::AcceptInvitation,
        Self::ResetPassword,
        Self::ChangeMember,
        Self::RemoveMember,
        Self::LoseMember,
        Self::Reload,
        Self::ForcedDrop,
        Self::NotWritten,
        Self::DiffersAtStart,
        Self::SignIn,
        Self::SignInFailed,
        Self::SignOut,
        Self::MakeSignInLink,
        Self::Cut,
        Self::RowsLost,
    ];

    /// Its name in the database, in the admin API, and in log lines.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Change => "change",
            Self::Rotate => "rotate",
            Self::ExpirePrevious => "expire_previous",
            Self::ResetBudgets => "reset_budgets",
            Self::Delete => "delete",
            Self::CreateAccount => "create_account",
            Self::ChangeAccount => "change_account",
            Self::DeleteAccount => "delete_account",
            Self::Invite => "invite",
            Self::RevokeInvitation => "revoke_invitation",
            Self::AcceptInvitation => "accept_invitation",
            Self::ResetPassword => "reset_password",
            Self::ChangeMember => "change_member",
            Self::RemoveMember => "remove_member",
            Self::LoseMember => "lose_member",
            Self::Reload => "reload",
            Self::ForcedDrop => "forced_drop",
            Self::NotWritten => "not_written",
            Self::DiffersAtStart => "differs_at_start",
            Self::SignIn => "sign_in",
            Self::SignInFailed => "sign_in_failed",
            Self::SignOut => "sign_out",
            Self::MakeSignInLink => "make_sign_in_link",
            Self::Cut => "cut",
            Self::RowsLost => "rows_lost",
        }
    }

    /// The action of a name.
    #[must_use]
    pub fn of_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.label() == label)
    }

    /// All names.
    pub fn labels() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().map(Self::label)
    }
}

/// What a row is made of. It holds no token and no hash of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// In milliseconds since 1970.
    pub at: i64,
    /// Who, and how.
    pub origin: ChangeOrigin,
    /// What.
    pub action: AuditAction,
    /// The id of the key, account, invitation or person, if it is about one.
    pub target: Option<String>,
    /// The account that it is about; its owners may see the row.
    pub account: Option<String>,
    /// The fields that changed, before, as a JSON object.
    pub before: Option<String>,
    /// The same, after.
    pub after: Option<String>,
}

impl AuditEntry {
    /// About how much memory it takes, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        size_of::<Self>()
            + length(&self.target)
            + length(&self.account)
            + length(&self.before)
            + length(&self.after)
    }
}

/// A row of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// The rows count from 1, without gaps.
    pub n: i64,
    /// In milliseconds since 1970.
    pub at: i64,
    /// Who.
    pub actor: String,
    /// How, by its name.
    pub via: String,
    /// What, by its name.
    pub action: String,
    /// What it is about.
    pub target: Option<String>,
    /// The account that it is about.
    pub account: Option<String>,
    /// The fields that changed, before, as a JSON object.
    pub before: Option<String>,
    /// The same, after.
    pub after: Option<String>,
    /// The client's address.
    pub address: Option<String>,
    /// The id of the call.
    pub request_id: Option<String>,
    /// The hash of the row before.
    pub previous_hash: String,
    /// The hash of this row.
    pub hash: String,
}

/// A row's number and hash: enough to go on from, and to find it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditMark {
    /// The row's number.
    pub n: i64,
    /// Its hash.
    pub hash: String,
}

impl AuditMark {
    /// What the first row follows.
    #[must_use]
    pub fn origin() -> Self {
        Self {
            n: 0,
            hash: "0".repeat(64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_action_is_found_by_its_name() {
        for action in AuditAction::ALL {
            assert_eq!(AuditAction::of_label(action.label()), Some(action));
        }
        assert_eq!(AuditAction::of_label("Create"), None);
    }
}
