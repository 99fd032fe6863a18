//! What `SHOW GRANTS` says of a user's rights in a database.

/// Those of `needed` that no grant gives for `database`. Empty where that is not known: a role may give them.
pub(super) fn missing<'a>(grants: &[String], database: &str, needed: &[&'a str]) -> Vec<&'a str> {
    let mut given = Vec::new();
    for grant in grants {
        let Some((rights, object)) = grant.strip_prefix("GRANT ").and_then(|rest| rest.split_once(" ON ")) else {
            return Vec::new();
        };
        // A right on one table counts too: it may be the table that is meant.
        let pattern = object.split(" TO ").next().unwrap_or_default().replace(['`', '\\'], "");
        if pattern.split('.').next().is_some_and(|pattern| pattern == "*" || covers(pattern, database)) {
            given.extend(rights.split(',').map(|right| right.trim().to_ascii_uppercase()));
        }
    }
    let has = |right: &str| given.iter().any(|given| given == right || given.starts_with("ALL PRIVILEGES"));
    needed.iter().copied().filter(|right| !has(right)).collect()
}

/// `%` in a grant's database stands for any text. An underscore may stand for any character, or for itself.
fn covers(pattern: &str, database: &str) -> bool {
    match pattern.split_once('%') {
        Some((before, _)) => database.starts_with(before),
        None => pattern == database || (pattern.contains('_') && pattern.len() == database.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_of_both_servers() {
        let needed = ["CREATE", "ALTER"];
        let of = |grants: &[&str]| {
            missing(&grants.iter().map(|grant| (*grant).to_owned()).collect::<Vec<_>>(), "shop_one", &needed)
        };
        assert_eq!(of(&["GRANT USAGE ON *.* TO `a`@`%`"]), needed);
        assert_eq!(
            of(&["GRANT USAGE ON *.* TO `a`@`%`", "GRANT SELECT, CREATE ON `shop_one`.* TO `a`@`%`"]),
            ["ALTER"]
        );
        assert_eq!(of(&["GRANT ALL PRIVILEGES ON `shop\\_one`.* TO `a`@`%`"]), [""; 0]);
        assert_eq!(of(&["GRANT ALL PRIVILEGES ON `shop%`.* TO `a`@`%`"]), [""; 0]);
        assert_eq!(of(&["GRANT ALL PRIVILEGES ON `other`.* TO `a`@`%`"]), needed);
        assert_eq!(of(&["GRANT SELECT, ALTER, CREATE ON *.* TO `a`@`%` WITH GRANT OPTION"]), [""; 0]);
        assert_eq!(of(&["GRANT USAGE ON *.* TO `a`@`%`", "GRANT `role`@`%` TO `a`@`%`"]), [""; 0], "not known");
    }
}
