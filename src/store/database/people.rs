//! Persons, their roles in accounts, and invitations.
//!
//! A person is known by issuer and subject alone, or by an e-mail address and a password. An e-mail address of the one never
//! stands for the other. An invitation is used once: what it gives is written in the same transaction as its use.

use crate::policy::person::{EmailAddress, PersonId, Role};
use crate::store::database::Database;
use crate::store::database::error::DatabaseError;
use crate::store::database::record::DAY;
use crate::store::database::statements::{SqlValue, Statement};

/// How a person signs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PersonIdentity {
    /// By this e-mail address and a password.
    Password(EmailAddress),
    /// By an identity provider, which knows the person as this subject.
    Provider {
        /// The provider's issuer (OpenID Connect Core 1.0, 2).
        issuer: String,
        /// Its name for the person, which it gives to nobody else.
        subject: String,
    },
}

/// A person who may sign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// The id.
    pub id: PersonId,
    /// How the person signs in.
    pub identity: PersonIdentity,
    /// Where mail for the person goes, as far as it is known.
    pub email: String,
    /// The name, as the identity provider says it.
    pub name: Option<String>,
    /// In seconds since 1970.
    pub created_at: i64,
    /// In seconds since 1970; None: never.
    pub last_sign_in_at: Option<i64>,
}

impl Person {
    /// How log and audit name the person: by the e-mail address, or by the id where none is known.
    #[must_use]
    pub fn actor(&self) -> &str {
        match self.email.is_empty() {
            true => self.id.as_str(),
            false => &self.email,
        }
    }
}

/// A person to add, or to bring up to date if it is known by this identity.
#[derive(Clone, Debug)]
pub struct NewPerson {
    /// The id that a new person gets.
    pub id: PersonId,
    /// How the person signs in.
    pub identity: PersonIdentity,
    /// The e-mail address, of which the identity provider says that it is verified, if it has one.
    pub email: Option<EmailAddress>,
    /// The name.
    pub name: Option<String>,
    /// The new password as a PHC string; None: it stays, if there is one.
    pub password: Option<String>,
}

/// A person's role in one account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The account's id.
    pub account: String,
    /// The role.
    pub role: Role,
    /// Whether a claim of the identity provider gives it.
    pub by_claim: bool,
}

/// A person in an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub person: Person,
    /// The role.
    pub role: Role,
}

/// An invitation, without its code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// The id.
    pub id: String,
    /// The account's id.
    pub account: String,
    /// Whom it is for.
    pub email: String,
    /// The role that it gives.
    pub role: Role,
    /// The person whose password it sets anew; None: it invites somebody.
    pub person: Option<String>,
    /// Who made it, by name.
    pub invited_by: String,
    /// The member who made it; None: an operator. It is void once that is no owner of the account any more.
    pub inviter: Option<String>,
    /// In seconds since 1970.
    pub created_at: i64,
    /// In seconds since 1970: from then on it is not taken.
    pub expires_at: i64,
}

/// An invitation to add.
#[derive(Clone, Debug)]
pub struct NewInvitation {
    /// What it says.
    pub invitation: Invitation,
    /// The hash of the code in its link.
    pub hash: String,
}

/// What each kind of database can do for people.
pub(crate) trait PeopleDriver: Send {
    /// The rows that a question finds.
    fn ask(&mut self, statement: &Statement) -> Result<Vec<SqlRow>, DatabaseError>;

    /// Runs statements in one transaction, which is on disk when this returns. With a `condition` that is run first, and
    /// where it changes no row, the others are not run. How many rows each has changed that was run.
    fn change(
        &mut self,
        condition: Option<&Statement>,
        statements: &[Statement],
    ) -> Result<Vec<usize>, DatabaseError>;
}

/// The values of one row.
pub(crate) struct SqlRow(pub(crate) Vec<SqlValue>);

impl SqlRow {
    pub(crate) fn text(&self, column: usize) -> Option<String> {
        match self.0.get(column) {
            Some(SqlValue::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    pub(crate) fn number(&self, column: usize) -> Option<i64> {
        match self.0.get(column) {
            Some(SqlValue::Integer(number)) => Some(*number),
            _ => None,
        }
    }
}

/// A statement with these values.
pub(crate) fn statement(sql: &str, values: impl IntoIterator<Item = SqlValue>) -> Statement {
    Statement {
        sql: sql.to_owned(),
        values: values.into_iter().collect(),
    }
}

/// A text as a value.
pub(crate) fn text(text: &str) -> SqlValue {
    SqlValue::Text(text.to_owned())
}

fn optional(value: Option<&str>) -> SqlValue {
    value.map_or(SqlValue::Null, text)
}

/// The columns of a person, in the order that [`person_of`] reads.
pub(crate) const PERSON: &str = "persons.id, persons.issuer, persons.subject, persons.email, persons.name, persons.created_at, persons.last_sign_in_at";
const PERSON_COLUMNS: usize = 7;
const INVITATION_COLUMNS: usize = 9;
const INVITATION: &str =
    "id, account, email, role, person, invited_by, inviter, created_at, expires_at";

/// The person in the columns from this one on; None: the row is not as it was written.
pub(crate) fn person_of(row: &SqlRow, at: usize) -> Option<Person> {
    let issuer = row.text(at + 1)?;
    let subject = row.text(at + 2)?;
    Some(Person {
        id: PersonId::parse(&row.text(at)?).ok()?,
        identity: match issuer.is_empty() {
            true => PersonIdentity::Password(EmailAddress::parse(&subject).ok()?),
            false => PersonIdentity::Provider { issuer, subject },
        },
        email: row.text(at + 3)?,
        name: row.text(at + 4),
        created_at: row.number(at + 5)?,
        last_sign_in_at: row.number(at + 6),
    })
}

fn invitation_of(row: &SqlRow) -> Option<Invitation> {
    Some(Invitation {
        id: row.text(0)?,
        account: row.text(1)?,
        email: row.text(2)?,
        role: Role::of_label(&row.text(3)?)?,
        person: row.text(4),
        invited_by: row.text(5)?,
        inviter: row.text(6),
        created_at: row.number(7)?,
        expires_at: row.number(8)?,
    })
}

impl PersonIdentity {
    /// Issuer and subject as the database has them.
    fn columns(&self) -> [SqlValue; 2] {
        match self {
            Self::Password(email) => [text(""), text(email.as_str())],
            Self::Provider { issuer, subject } => [text(issuer), text(subject)],
        }
    }
}

impl Database {
    pub(crate) fn ask_people(&self, statement: &Statement) -> Result<Vec<SqlRow>, DatabaseError> {
        self.of_side(|driver| driver.ask(statement))
    }

    pub(crate) fn change_people(
        &self,
        statements: &[Statement],
    ) -> Result<Vec<usize>, DatabaseError> {
        self.of_side(|driver| driver.change(None, statements))
    }

    /// Runs the statements if the condition changes a row, all in one transaction. Returns whether it did.
    fn change_people_if(
        &self,
        condition: &Statement,
        statements: &[Statement],
    ) -> Result<bool, DatabaseError> {
        let changed = self.of_side(|driver| driver.change(Some(condition), statements))?;
        Ok(changed.first().is_some_and(|count| *count > 0))
    }

    /// The person of an identity, with the PHC string of its password. Waits for the disk, like all below.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn person(
        &self,
        identity: &PersonIdentity,
    ) -> Result<Option<(Person, Option<String>)>, DatabaseError> {
        let sql = format!(
            "SELECT {PERSON}, persons.password FROM persons WHERE issuer = $1 AND subject = $2"
        );
        let rows = self.ask_people(&statement(&sql, identity.columns()))?;
        let person = |row: &SqlRow| Some((person_of(row, 0)?, row.text(PERSON_COLUMNS)));
        Ok(rows.first().and_then(person))
    }

    /// The accounts that a person is in, by id.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn memberships(&self, person: &PersonId) -> Result<Vec<Membership>, DatabaseError> {
        let sql = "SELECT account, role, by_claim FROM members WHERE person = $1 ORDER BY account";
        let rows = self.ask_people(&statement(sql, [text(person.as_str())]))?;
        let membership = |row: &SqlRow| {
            Some(Membership {
                account: row.text(0)?,
                role: Role::of_label(&row.text(1)?)?,
                by_claim: row.number(2)? != 0,
            })
        };
        Ok(rows.iter().filter_map(membership).collect())
    }

    /// The members of an account, by e-mail address.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn members(&self, account: &str) -> Result<Vec<Member>, DatabaseError> {
        let sql = format!(
            "SELECT {PERSON}, members.role FROM members JOIN persons ON persons.id = members.person \
             WHERE members.account = $1 ORDER BY persons.email, persons.id"
        );
        let rows = self.ask_people(&statement(&sql, [text(account)]))?;
        let member = |row: &SqlRow| {
            Some(Member {
                person: person_of(row, 0)?,
                role: Role::of_label(&row.text(PERSON_COLUMNS)?)?,
            })
        };
        Ok(rows.iter().filter_map(member).collect())
    }

    /// Gives a member of an account another role, ends the person's sessions, and voids the open invitations that would give
    /// or have been given with the old one. `by`: the member who does it, who has to be an owner in the same instant, and
    /// who leaves the account another owner; None: an operator. Returns whether it was done.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn set_role(
        &self,
        account: &str,
        person: &str,
        role: Role,
        by: Option<&PersonId>,
    ) -> Result<bool, DatabaseError> {
        // A role that was given by hand is not taken back by a claim.
        let sql = format!(
            "UPDATE members SET role = $4, by_claim = 0 WHERE account = $1 AND person = $2 AND {} AND ($4 = 'owner' OR {})",
            owner_or_operator("$1", "$3"),
            leaves_an_owner("$1", "$2", "$3"),
        );
        let values = [
            text(account),
            text(person),
            optional(by.map(PersonId::as_str)),
            text(role.label()),
        ];
        self.change_member(account, person, statement(&sql, values))
    }

    /// Removes a member from an account, with the same conditions and consequences.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn remove_member(
        &self,
        account: &str,
        person: &str,
        by: Option<&PersonId>,
    ) -> Result<bool, DatabaseError> {
        let sql = format!(
            "DELETE FROM members WHERE account = $1 AND person = $2 AND {} AND {}",
            owner_or_operator("$1", "$3"),
            leaves_an_owner("$1", "$2", "$3"),
        );
        let values = [
            text(account),
            text(person),
            optional(by.map(PersonId::as_str)),
        ];
        self.change_member(account, person, statement(&sql, values))
    }

    fn change_member(
        &self,
        account: &str,
        person: &str,
        change: Statement,
    ) -> Result<bool, DatabaseError> {
        let of_member = [text(account), text(person)];
        // Those for the member, by whatever address, and those that the member made and may make no more.
        let void = "DELETE FROM invitations WHERE account = $1 AND used_at IS NULL AND (person = $2 OR email IN \
                    (SELECT email FROM persons WHERE id = $2) OR (inviter = $2 AND NOT EXISTS \
                    (SELECT 1 FROM members WHERE account = $1 AND person = $2 AND role = 'owner')))";
        self.change_people_if(
            &change,
            &[statement(void, of_member), end_sessions_of(person)],
        )
    }

    /// Removes all members and invitations of an account, and ends the sessions of those members.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn remove_people_of(&self, account: &str) -> Result<(), DatabaseError> {
        let of_account = |sql| statement(sql, [text(account)]);
        self.change_people(&[
            end_sessions_in(account),
            of_account("DELETE FROM members WHERE account = $1"),
            of_account("DELETE FROM invitations WHERE account = $1"),
        ])
        .map(drop)
    }

    /// Ends the sessions of all members of an account.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn end_sessions_in(&self, account: &str) -> Result<(), DatabaseError> {
        self.change_people(&[end_sessions_in(account)]).map(drop)
    }

    /// Adds an invitation. Returns false where its inviter is no owner of the account any more.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn add_invitation(&self, new: &NewInvitation) -> Result<bool, DatabaseError> {
        let Invitation {
            id,
            account,
            email,
            role,
            person,
            invited_by,
            inviter,
            created_at,
            expires_at,
        } = &new.invitation;
        let sql = format!(
            "INSERT INTO invitations \
             (id, account, email, role, person, invited_by, created_at, expires_at, hash, inviter) \
             SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 WHERE {}",
            owner_or_operator("$2", "$10")
        );
        let values = [
            text(id),
            text(account),
            text(email),
            text(role.label()),
            optional(person.as_deref()),
            text(invited_by),
            SqlValue::Integer(*created_at),
            SqlValue::Integer(*expires_at),
            text(&new.hash),
            optional(inviter.as_deref()),
        ];
        // Those that nobody used are of no use a month later.
        let old = SqlValue::Integer(created_at.saturating_sub(30 * DAY));
        let forget = statement("DELETE FROM invitations WHERE expires_at < $1", [old]);
        let changed = self.change_people(&[forget, statement(&sql, values)])?;
        Ok(changed.last() == Some(&1))
    }

    /// The open invitations of an account, the newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn invitations(&self, account: &str, now: i64) -> Result<Vec<Invitation>, DatabaseError> {
        let sql = format!(
            "SELECT {INVITATION} FROM invitations WHERE account = $1 AND used_at IS NULL AND expires_at > $2 \
             ORDER BY created_at DESC, id"
        );
        let values = [text(account), SqlValue::Integer(now)];
        let rows = self.ask_people(&statement(&sql, values))?;
        Ok(rows.iter().filter_map(invitation_of).collect())
    }

    /// The open invitations for an e-mail address, the oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn invitations_for(
        &self,
        email: &str,
        now: i64,
    ) -> Result<Vec<NewInvitation>, DatabaseError> {
        let sql = format!(
            "SELECT {INVITATION}, hash FROM invitations \
             WHERE email = $1 AND person IS NULL AND used_at IS NULL AND expires_at > $2 ORDER BY created_at, id"
        );
        let values = [text(email), SqlValue::Integer(now)];
        let rows = self.ask_people(&statement(&sql, values))?;
        let new = |row: &SqlRow| {
            Some(NewInvitation {
                invitation: invitation_of(row)?,
                hash: row.text(INVITATION_COLUMNS)?,
            })
        };
        Ok(rows.iter().filter_map(new).collect())
    }

    /// Takes an open invitation of an account back. Returns it, if there was one.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn revoke_invitation(
        &self,
        account: &str,
        id: &str,
        now: i64,
    ) -> Result<bool, DatabaseError> {
        let sql = "DELETE FROM invitations WHERE account = $1 AND id = $2 AND used_at IS NULL AND expires_at > $3";
        let values = [text(account), text(id), SqlValue::Integer(now)];
        let changed = self.change_people(&[statement(sql, values)])?;
        Ok(changed == [1])
    }

    /// The open invitation whose code has this hash.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn open_invitation(
        &self,
        hash: &str,
        now: i64,
    ) -> Result<Option<Invitation>, DatabaseError> {
        let sql = format!(
            "SELECT {INVITATION} FROM invitations WHERE hash = $1 AND used_at IS NULL AND expires_at > $2"
        );
        let values = [text(hash), SqlValue::Integer(now)];
        let rows = self.ask_people(&statement(&sql, values))?;
        Ok(rows.first().and_then(invitation_of))
    }

    /// Uses up the invitation whose code has this hash, for this person: adds the person or brings it up to date, and gives
    /// it the role. Returns false where another attempt was first, or it is
    /// not open any more; then nothing is changed.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn accept_invitation(
        &self,
        hash: &str,
        person: &NewPerson,
        now: i64,
    ) -> Result<bool, DatabaseError> {
        // A link of an owner sets the password of nobody who is in another account too.
        let use_up = statement(
            "UPDATE invitations SET used_at = $2 WHERE hash = $1 AND used_at IS NULL AND expires_at > $2 \
             AND (person IS NULL OR inviter IS NULL OR NOT EXISTS (SELECT 1 FROM members \
             WHERE members.person = invitations.person AND members.account <> invitations.account))",
            [text(hash), SqlValue::Integer(now)],
        );
        let is_reset = "EXISTS (SELECT 1 FROM invitations WHERE hash = $1 AND person IS NOT NULL)";
        let [issuer, subject] = person.identity.columns();
        // An invitation to join never changes a password that is there, also where its person has just been made.
        let add = statement(
            &format!(
                "INSERT INTO persons (id, issuer, subject, email, name, password, created_at) \
                 VALUES ($2, $3, $4, $5, $6, $7, $8) \
                 ON CONFLICT (issuer, subject) DO UPDATE SET password = COALESCE(excluded.password, persons.password) \
                 WHERE {is_reset}"
            ),
            [
                text(hash),
                text(person.id.as_str()),
                issuer.clone(),
                subject.clone(),
                text(person.email.as_ref().map_or("", EmailAddress::as_str)),
                optional(person.name.as_deref()),
                optional(person.password.as_deref()),
                SqlValue::Integer(now),
            ],
        );
        // A link that sets a password anew gives no role, and none takes a greater role away.
        let join = statement(
            &format!(
                "INSERT INTO members (account, person, role, by_claim, created_at) \
                 SELECT invitations.account, persons.id, invitations.role, 0, $2 FROM invitations, persons \
                 WHERE invitations.hash = $1 AND invitations.person IS NULL \
                 AND persons.issuer = $3 AND persons.subject = $4 \
                 ON CONFLICT (account, person) DO UPDATE SET role = excluded.role, by_claim = 0 WHERE {} < {}",
                rank_of("members.role"),
                rank_of("excluded.role"),
            ),
            [
                text(hash),
                SqlValue::Integer(now),
                issuer.clone(),
                subject.clone(),
            ],
        );
        // Of several links to a new password the first is the last.
        let void = statement(
            "UPDATE invitations SET used_at = $2 WHERE used_at IS NULL AND person = \
             (SELECT person FROM invitations WHERE hash = $1)",
            [text(hash), SqlValue::Integer(now)],
        );
        // Whoever had the old password may have a session.
        let end = statement(
            "DELETE FROM sessions WHERE person IN (SELECT id FROM persons WHERE issuer = $1 AND subject = $2)",
            [issuer, subject],
        );
        self.change_people_if(&use_up, &[add, join, void, end])
    }

    /// Notes a sign-in by an identity provider: brings name and e-mail address up to date, and makes the memberships that
    /// claims give these and no others. Adds the person if it is not known yet.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn note_provider_sign_in(
        &self,
        person: &NewPerson,
        by_claim: &[(String, Role)],
        now: i64,
    ) -> Result<(), DatabaseError> {
        let [issuer, subject] = person.identity.columns();
        let who = "(SELECT id FROM persons WHERE issuer = $1 AND subject = $2)";
        let mut statements = vec![
            statement(
                "INSERT INTO persons (id, issuer, subject, email, name, password, created_at) \
                 VALUES ($3, $1, $2, $4, $5, NULL, $6) \
                 ON CONFLICT (issuer, subject) DO UPDATE SET email = excluded.email, name = excluded.name",
                [
                    issuer.clone(),
                    subject.clone(),
                    text(person.id.as_str()),
                    text(person.email.as_ref().map_or("", EmailAddress::as_str)),
                    optional(person.name.as_deref()),
                    SqlValue::Integer(now),
                ],
            ),
            statement(
                &format!("DELETE FROM members WHERE by_claim = 1 AND person = {who}"),
                [issuer.clone(), subject.clone()],
            ),
        ];
        let add = "INSERT INTO members (account, person, role, by_claim, created_at) SELECT $3, id, $4, 1, $5 FROM persons \
             WHERE issuer = $1 AND subject = $2 ON CONFLICT (account, person) DO NOTHING";
        for (account, role) in by_claim {
            let values = [
                issuer.clone(),
                subject.clone(),
                text(account),
                text(role.label()),
                SqlValue::Integer(now),
            ];
            statements.push(statement(add, values));
        }
        self.change_people(&statements).map(drop)
    }
}

/// Whether the member of this placeholder is an owner of the account; null, an operator, is more.
fn owner_or_operator(account: &str, by: &str) -> String {
    format!(
        "({by} IS NULL OR EXISTS (SELECT 1 FROM members AS acting WHERE acting.account = {account} \
         AND acting.person = {by} AND acting.role = 'owner'))"
    )
}

/// Whether the account has another owner than this person, as it has to unless an operator acts.
fn leaves_an_owner(account: &str, person: &str, by: &str) -> String {
    format!(
        "({by} IS NULL OR EXISTS (SELECT 1 FROM members AS other WHERE other.account = {account} \
         AND other.person <> {person} AND other.role = 'owner'))"
    )
}

/// A role as a number, a greater one for a greater role.
fn rank_of(role: &str) -> String {
    format!("(CASE {role} WHEN 'owner' THEN 3 WHEN 'member' THEN 2 ELSE 1 END)")
}

/// Ends all sessions of a person.
pub(crate) fn end_sessions_of(person: &str) -> Statement {
    statement("DELETE FROM sessions WHERE person = $1", [text(person)])
}

fn end_sessions_in(account: &str) -> Statement {
    statement(
        "DELETE FROM sessions WHERE person IN (SELECT person FROM members WHERE account = $1)",
        [text(account)],
    )
}
