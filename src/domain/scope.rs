//! Scopes: what a key may do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One kind of thing that a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Read memories and what is counted of them.
    MemoryRead,
    /// Add, change and delete memories.
    MemoryWrite,
    /// Make, list, change, rotate and revoke keys.
    Keys,
    /// See the account's ledger, and erase the account.
    Account,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 4] = [
        Self::MemoryRead,
        Self::MemoryWrite,
        Self::Keys,
        Self::Account,
    ];

    /// Returns its name as clients write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MemoryRead => "memory:read",
            Self::MemoryWrite => "memory:write",
            Self::Keys => "keys",
            Self::Account => "account",
        }
    }

    /// Returns the scope with this name; `None` if there is none.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }

    // Stored: a bit is a scope's for ever.
    const fn bit(self) -> u8 {
        match self {
            Self::MemoryRead => 1,
            Self::MemoryWrite => 2,
            Self::Keys => 4,
            Self::Account => 8,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scopes(u8);

/// The names are no set of scopes that a key can have; a sentence for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadScopes {
    /// No scope has that name.
    #[error("There is no scope {0:?}.")]
    Unknown(String),
    /// One is named again.
    #[error("{0} is listed twice.")]
    Twice(Scope),
    /// None is named.
    #[error("It is empty.")]
    Empty,
}

impl Scopes {
    /// Every scope: what the first key of an account has.
    pub const ALL: Self = Self(15);

    /// Returns the scopes with these names.
    ///
    /// # Errors
    ///
    /// [`BadScopes`]
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, BadScopes> {
        let mut scopes = Self::default();
        for name in names {
            let scope = Scope::parse(name).ok_or_else(|| BadScopes::Unknown(name.to_owned()))?;
            if scopes.contains(scope) {
                return Err(BadScopes::Twice(scope));
            }
            scopes = scopes.iter().chain([scope]).collect();
        }
        if scopes.is_empty() {
            return Err(BadScopes::Empty);
        }
        Ok(scopes)
    }

    /// Says whether the scope is in the set.
    #[must_use]
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Says whether every scope of the set is in the other.
    #[must_use]
    pub const fn within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Returns the set without a scope.
    #[must_use]
    pub const fn without(self, scope: Scope) -> Self {
        Self(self.0 & !scope.bit())
    }

    /// Says whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the scopes of the set, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL
            .into_iter()
            .filter(move |scope| self.contains(*scope))
    }

    /// Returns the first scope of this set that the other lacks.
    #[must_use]
    pub fn first_beyond(self, other: Self) -> Option<Scope> {
        self.iter().find(|scope| !other.contains(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        let set: Scopes = [Scope::Keys, Scope::MemoryRead].into_iter().collect();
        assert_eq!(
            set.iter().collect::<Vec<_>>(),
            [Scope::MemoryRead, Scope::Keys]
        );
        assert!(set.within(Scopes::ALL) && !Scopes::ALL.within(set));
        assert_eq!(Scopes::ALL.first_beyond(set), Some(Scope::MemoryWrite));
        assert!(!set.without(Scope::Keys).contains(Scope::Keys));
        assert_eq!(Scopes::ALL, Scope::ALL.into_iter().collect());
        assert!(Scopes::default().is_empty());
    }

    #[test]
    fn names_are_read_once_each() {
        let parse = |names: &[&'static str]| Scopes::parse(names.iter().copied());
        let some: Scopes = [Scope::Keys, Scope::Account].into_iter().collect();
        assert_eq!(parse(&["account", "keys"]), Ok(some));
        assert_eq!(parse(&[]), Err(BadScopes::Empty));
        let twice = parse(&["keys", "account", "keys"]);
        assert_eq!(twice, Err(BadScopes::Twice(Scope::Keys)));
        let unknown = BadScopes::Unknown("Keys".to_owned());
        assert_eq!(parse(&["Keys"]), Err(unknown));
    }

    #[test]
    fn names_come_back() {
        for scope in Scope::ALL {
            assert_eq!(Scope::parse(scope.name()), Some(scope));
        }
        assert_eq!(Scope::parse("Keys"), None);
    }
}
