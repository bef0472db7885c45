//! Who makes a call, and what that lets them see and change.
//!
//! A [`Principal`] is made in [`access`](crate::admin::access) alone. What is for operators takes an [`OperatorOnly`], keys
//! are looked up through a [`KeyScope`], and an account's people through an [`AccountAccess`]; these come from a principal
//! alone, so that no call can forget to ask. What is not theirs does not exist for them: 404, never 403.

use crate::admin::error::ApiError;
use crate::policy::key::{Account, Key};
use crate::policy::person::{PersonId, Role};
use crate::store::database::Person;
use crate::store::patch::{KeyPatch, NewKey};
use crate::table::Table;

/// Who makes a call.
#[derive(Clone, Debug)]
pub(super) struct Principal(Who);

#[derive(Clone, Debug)]
enum Who {
    /// Somebody who may do everything. The person, where a person is an operator.
    Operator(Option<Box<SignedIn>>),
    Person(Box<SignedIn>, Vec<(String, Role)>),
}

/// A person who is signed in.
#[derive(Clone, Debug)]
pub(super) struct SignedIn {
    /// Who.
    pub(super) person: Person,
    /// The id of the session.
    pub(super) session: String,
}

/// An operator makes the call.
#[derive(Clone, Copy, Debug)]
pub(super) struct OperatorOnly(());

impl Principal {
    /// An operator, by socket, admin token or a session that began with one of them.
    pub(super) fn operator() -> Self {
        Self(Who::Operator(None))
    }

    /// An operator who signed in as a person.
    pub(super) fn operator_person(signed_in: SignedIn) -> Self {
        Self(Who::Operator(Some(Box::new(signed_in))))
    }

    /// A person with these roles in accounts that exist and are not disabled.
    pub(super) fn person(signed_in: SignedIn, roles: Vec<(String, Role)>) -> Self {
        Self(Who::Person(Box::new(signed_in), roles))
    }

    /// The person, if it is one.
    pub(super) fn signed_in(&self) -> Option<&SignedIn> {
        match &self.0 {
            Who::Operator(signed_in) => signed_in.as_deref(),
            Who::Person(signed_in, _) => Some(signed_in),
        }
    }

    /// A text that no other person has; empty for operators by socket or token.
    pub(super) fn id(&self) -> &str {
        let signed_in = self.signed_in();
        signed_in.map_or("", |signed_in| signed_in.person.id.as_str())
    }

    /// The accounts of a person, with the role in each; None for an operator, who has none and may do all.
    pub(super) fn roles(&self) -> Option<&[(String, Role)]> {
        match &self.0 {
            Who::Operator(_) => None,
            Who::Person(_, roles) => Some(roles),
        }
    }

    /// # Errors
    /// The call is for operators: for everybody else it does not exist.
    pub(super) fn operator_only(&self) -> Result<OperatorOnly, ApiError> {
        match &self.0 {
            Who::Operator(_) => Ok(OperatorOnly(())),
            Who::Person(..) => Err(ApiError::UnknownPath),
        }
    }

    /// Access to an account for a person with at least this role in it, or an operator.
    ///
    /// # Errors
    /// There is no such account, or it is not theirs.
    pub(super) fn account(
        &self,
        table: &Table,
        id: &str,
        least: Role,
    ) -> Result<AccountAccess, ApiError> {
        let member = match &self.0 {
            Who::Operator(_) => None,
            Who::Person(signed_in, roles) => {
                let role = role_in(roles, id).filter(|role| *role >= least);
                let role = role.ok_or(ApiError::UnknownAccount)?;
                Some((signed_in.person.id.clone(), role))
            }
        };
        if table.account(id).is_none() {
            return Err(ApiError::UnknownAccount);
        }
        Ok(AccountAccess {
            id: id.to_owned(),
            member,
        })
    }

    /// The keys that the principal may see.
    pub(super) fn keys(&self) -> KeyScope {
        match &self.0 {
            Who::Operator(_) => KeyScope::all(),
            Who::Person(signed_in, roles) => KeyScope(Some(PersonScope {
                person: signed_in.person.id.clone(),
                roles: roles.clone(),
            })),
        }
    }

    /// The account that a question about usage or activity is about: the one that it names, where the principal has at
    /// least this role in it. A person in one account need not name it. None: all accounts, for an operator.
    ///
    /// # Errors
    /// It is not theirs, or it names none of several.
    pub(super) fn asked_account(
        &self,
        named: Option<&str>,
        least: Role,
    ) -> Result<Option<String>, ApiError> {
        let Some(roles) = self.roles() else {
            return Ok(named.map(str::to_owned));
        };
        let mut fitting = roles.iter().filter(|(_, role)| *role >= least);
        match named {
            Some(named) => match role_in(roles, named).filter(|role| *role >= least) {
                Some(_) => Ok(Some(named.to_owned())),
                None => Err(ApiError::UnknownAccount),
            },
            None => match (fitting.next(), fitting.next()) {
                (Some((only, _)), None) => Ok(Some(only.clone())),
                (None, _) => Err(ApiError::UnknownPath),
                (Some(_), Some(_)) => Err(ApiError::invalid(
                    "account",
                    "is missing; name one of your accounts",
                )),
            },
        }
    }
}

fn role_in(roles: &[(String, Role)], account: &str) -> Option<Role> {
    let mut of_account = roles.iter().filter(|(id, _)| id == account);
    of_account.next().map(|(_, role)| *role)
}

/// An account that the principal may act in.
#[derive(Clone, Debug)]
pub(super) struct AccountAccess {
    id: String,
    /// None for an operator.
    member: Option<(PersonId, Role)>,
}

impl AccountAccess {
    /// The account's id.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Whether an operator acts.
    pub(super) fn is_operator(&self) -> bool {
        self.member.is_none()
    }

    /// The member who acts; None: an operator does.
    pub(super) fn by(&self) -> Option<&PersonId> {
        self.member.as_ref().map(|(person, _)| person)
    }

    /// The role, as the API shows it.
    pub(super) fn role(&self) -> Option<Role> {
        self.member.as_ref().map(|(_, role)| *role)
    }
}

/// Which keys a call may see and change.
#[derive(Clone, Debug)]
pub(crate) struct KeyScope(Option<PersonScope>);

#[derive(Clone, Debug)]
struct PersonScope {
    person: PersonId,
    roles: Vec<(String, Role)>,
}

impl KeyScope {
    /// All keys: for operators, and for a key file that no gateway has loaded.
    pub(crate) fn all() -> Self {
        Self(None)
    }

    /// Whether it is all keys.
    pub(super) fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the key exists for the caller.
    pub(super) fn sees(&self, key: &Key) -> bool {
        self.0
            .as_ref()
            .is_none_or(|scope| scope.role_for(key).is_some())
    }

    /// Whether the caller may change, rotate, disable and delete the key.
    pub(super) fn may_change(&self, key: &Key) -> bool {
        self.0.as_ref().is_none_or(|scope| {
            let made = key.created_by() == Some(scope.person.as_str());
            match scope.role_for(key) {
                Some(Role::Owner) => true,
                Some(Role::Member) => made,
                Some(Role::Viewer) | None => false,
            }
        })
    }

    /// Checks a new key, and notes who creates it. In the only account of a person the body need not name it.
    ///
    /// # Errors
    /// The caller may not create keys in that account.
    pub(super) fn admit_new(&self, new: &mut NewKey) -> Result<(), ApiError> {
        let Some(scope) = &self.0 else {
            return Ok(());
        };
        let creates = |role: Role| role >= Role::Member;
        let mut places = scope.roles.iter().filter(|(_, role)| creates(*role));
        let named = match &new.account {
            Some(account) => account.as_str().to_owned(),
            None => match (places.next(), places.next()) {
                (Some((only, _)), None) => only.clone(),
                (None, _) => return Err(ApiError::UnknownPath),
                (Some(_), Some(_)) => {
                    let message = "is missing; name one of your accounts";
                    return Err(ApiError::invalid("account", message));
                }
            },
        };
        if !role_in(&scope.roles, &named).is_some_and(creates) {
            return Err(ApiError::UnknownAccount);
        }
        let account = Account::parse(&named);
        new.account = Some(account.map_err(|_| ApiError::UnknownAccount)?);
        new.created_by = Some(scope.person.clone());
        Ok(())
    }

    /// Checks a change of a key.
    ///
    /// # Errors
    /// It moves the key to another account, and with that from under the ceilings of its own.
    pub(super) fn admit_change(&self, key: &Key, patch: &KeyPatch) -> Result<(), ApiError> {
        let moves = patch.account.as_ref().is_some_and(|account| {
            let account = account.as_ref().map(Account::as_str);
            account != key.account()
        });
        match moves && !self.is_all() {
            true => Err(ApiError::invalid(
                "account",
                "can be changed by an operator alone; leave it out",
            )),
            false => Ok(()),
        }
    }
}

impl PersonScope {
    fn role_for(&self, key: &Key) -> Option<Role> {
        role_in(&self.roles, key.account()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::key::KeyFields;
    use crate::policy::key::fixture::key_fields;
    use crate::policy::person::EmailAddress;
    use crate::store::database::PersonIdentity;
    use crate::store::patch::{parse_new, parse_patch};

    fn principal(roles: &[(&str, Role)]) -> Principal {
        let email = EmailAddress::parse("alice@example.com").unwrap();
        let signed_in = SignedIn {
            person: Person {
                id: PersonId::parse("per_1").unwrap(),
                email: email.as_str().to_owned(),
                identity: PersonIdentity::Password(email),
                name: None,
                created_at: 0,
                last_sign_in_at: None,
            },
            session: "ses_1".to_owned(),
        };
        let roles = roles.iter().map(|(id, role)| ((*id).to_owned(), *role));
        Principal::person(signed_in, roles.collect())
    }

    fn key(account: Option<&str>, created_by: Option<&str>) -> Key {
        KeyFields {
            account: account.map(|id| Account::parse(id).unwrap()),
            created_by: created_by.map(|id| PersonId::parse(id).unwrap()),
            ..key_fields("key_1")
        }
        .into()
    }

    #[test]
    fn a_person_sees_and_changes_what_the_role_in_the_account_of_the_key_allows() {
        for (role, own, of_others) in [
            (Role::Viewer, false, false),
            (Role::Member, true, false),
            (Role::Owner, true, true),
        ] {
            let scope = principal(&[("acme", role)]).keys();
            let (mine, other) = (
                key(Some("acme"), Some("per_1")),
                key(Some("acme"), Some("per_2")),
            );
            assert!(scope.sees(&mine) && scope.sees(&other), "{role:?}");
            assert_eq!(scope.may_change(&mine), own, "{role:?}");
            assert_eq!(scope.may_change(&other), of_others, "{role:?}");
            for foreign in [key(Some("b"), Some("per_1")), key(None, Some("per_1"))] {
                assert!(!scope.sees(&foreign) && !scope.may_change(&foreign));
            }
        }
        assert!(Principal::operator().keys().may_change(&key(None, None)));
    }

    #[test]
    fn a_new_key_is_in_an_account_where_the_person_may_create_keys() {
        let new = |account: &str| {
            let body = format!(r#"{{"name":"n","model_access":{{"mode":"all"}}{account}}}"#);
            parse_new(body.as_bytes()).unwrap()
        };
        let (none, acme, other) = (
            new(""),
            new(r#","account":"acme""#),
            new(r#","account":"other""#),
        );
        let admitted = |roles: &[(&str, Role)], new: &NewKey| {
            let mut new = new.clone();
            principal(roles).keys().admit_new(&mut new)?;
            assert_eq!(new.created_by.unwrap().as_str(), "per_1");
            Ok::<_, ApiError>(new.account.unwrap().as_str().to_owned())
        };
        let one = [("acme", Role::Member)];
        assert_eq!(admitted(&one, &none).unwrap(), "acme");
        assert_eq!(admitted(&one, &acme).unwrap(), "acme");
        assert!(matches!(
            admitted(&one, &other),
            Err(ApiError::UnknownAccount)
        ));
        let two = [("acme", Role::Owner), ("b", Role::Member)];
        assert!(matches!(admitted(&two, &none), Err(ApiError::Invalid(_))));
        let viewer = [("acme", Role::Viewer)];
        assert!(admitted(&viewer, &none).is_err() && admitted(&viewer, &acme).is_err());
    }

    #[test]
    fn a_person_moves_no_key_out_of_its_account() {
        let scope = principal(&[("acme", Role::Owner), ("b", Role::Owner)]).keys();
        let key = key(Some("acme"), None);
        for (body, is_admitted) in [
            (r#"{"account":null}"#, false),
            (r#"{"account":"b"}"#, false),
            (r#"{"account":"acme","name":"x"}"#, true),
            (r#"{"name":"x"}"#, true),
        ] {
            let patch = parse_patch(body.as_bytes()).unwrap();
            assert_eq!(
                scope.admit_change(&key, &patch).is_ok(),
                is_admitted,
                "{body}"
            );
            assert!(KeyScope::all().admit_change(&key, &patch).is_ok());
        }
    }

    #[test]
    fn what_is_not_theirs_does_not_exist() {
        let alice = principal(&[("acme", Role::Member), ("b", Role::Owner)]);
        assert!(matches!(alice.operator_only(), Err(ApiError::UnknownPath)));
        let asked = |named, least| alice.asked_account(named, least);
        assert_eq!(
            asked(Some("acme"), Role::Viewer).unwrap().as_deref(),
            Some("acme")
        );
        assert!(asked(Some("acme"), Role::Owner).is_err());
        assert_eq!(asked(None, Role::Owner).unwrap().as_deref(), Some("b"));
        assert!(asked(None, Role::Viewer).is_err());
        assert!(asked(Some("c"), Role::Viewer).is_err());
        assert_eq!(
            Principal::operator()
                .asked_account(None, Role::Owner)
                .unwrap(),
            None
        );
    }
}
