//! What dependencies are allowed to be: from crates.io, with a checksum, under a licence of `deny.toml`.
//! All of it offline; what needs a data base of advisories is left to `cargo deny`, where there is one.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks every package that `Cargo.lock` names; what is wrong with any.
pub fn check() -> Result<usize, String> {
    let allowed = allowed(&read("deny.toml")?)?;
    let checksums = checksums(&read("Cargo.lock")?);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--locked", "--format-version", "1"])
        .output()
        .map_err(|error| format!("cannot run cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let metadata: Value =
        serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let packages = metadata["packages"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let mut wrong = Vec::new();
    let mut count = 0;
    for package in packages {
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        let name = format!("{} {}", text("name"), text("version"));
        let Some(source) = package["source"].as_str() else {
            continue;
        };
        count += 1;
        if source != REGISTRY {
            wrong.push(format!("{name} comes from {source}"));
        } else if !checksums.contains_key(&name) {
            wrong.push(format!("{name} has no checksum in Cargo.lock"));
        }
        let licence = text("license");
        if !suffices(licence, &allowed) {
            wrong.push(format!("{name} has the licence `{licence}`"));
        }
    }
    match wrong.is_empty() {
        true => Ok(count),
        false => Err(wrong.join("\n")),
    }
}

/// What cargo-deny looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It is not installed.
    Nothing,
    /// All but the advisories: their data base could not be fetched.
    Offline,
    /// Everything.
    All,
}

/// Runs `cargo deny check`, if it is installed: first what needs no network, then the advisories, if their
/// data base can be had. `None` if something is found.
pub fn deny() -> Option<Denied> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let there = Command::new(&cargo).args(["deny", "--version"]).output();
    if !there.is_ok_and(|output| output.status.success()) {
        return Some(Denied::Nothing);
    }
    let deny = |arguments: &[&str]| {
        let status = Command::new(&cargo).arg("deny").args(arguments).status();
        status.is_ok_and(|status| status.success())
    };
    if !deny(&["check", "bans", "licenses", "sources"]) {
        return None;
    }
    if !deny(&["fetch", "db"]) {
        return Some(Denied::Offline);
    }
    deny(&["check", "advisories"]).then_some(Denied::All)
}

fn read(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))
}

/// The strings of the list `allow` of `[licenses]`.
fn allowed(deny: &str) -> Result<Vec<String>, String> {
    let lines = deny.lines().skip_while(|line| line.trim() != "[licenses]");
    let list = lines.skip_while(|line| !line.starts_with("allow"));
    let list = list.skip(1).take_while(|line| line.trim() != "]");
    let found: Vec<String> = list
        .map(|line| line.trim().trim_matches([',', '"']).to_owned())
        .collect();
    match found.is_empty() {
        true => Err("deny.toml allows no licence".into()),
        false => Ok(found),
    }
}

/// The checksum of each `name version`.
fn checksums(lock: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let value = |key: &str| {
            let start = format!("{key} = \"");
            let line = package.lines().find(|line| line.starts_with(&start))?;
            Some(line[start.len()..].trim_end_matches('"').to_owned())
        };
        if let (Some(name), Some(version), Some(checksum)) =
            (value("name"), value("version"), value("checksum"))
        {
            found.insert(format!("{name} {version}"), checksum);
        }
    }
    found
}

/// Whether these licences suffice for an SPDX expression; `/` is an old way to write `OR`.
fn suffices(expression: &str, allowed: &[String]) -> bool {
    let expression = expression.replace(" / ", " OR ").replace('/', " OR ");
    let spaced = expression.replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &words[..];
    let found = any(&mut rest, allowed);
    found == Some(true) && rest.is_empty()
}

/// Terms joined by `OR`; `None` if it is no expression.
fn any(rest: &mut &[&str], allowed: &[String]) -> Option<bool> {
    let mut found = all(rest, allowed)?;
    while let Some(after) = rest.strip_prefix(&["OR"]) {
        *rest = after;
        found |= all(rest, allowed)?;
    }
    Some(found)
}

/// Terms joined by `AND`.
fn all(rest: &mut &[&str], allowed: &[String]) -> Option<bool> {
    let mut found = one(rest, allowed)?;
    while let Some(after) = rest.strip_prefix(&["AND"]) {
        *rest = after;
        found &= one(rest, allowed)?;
    }
    Some(found)
}

fn one(rest: &mut &[&str], allowed: &[String]) -> Option<bool> {
    if let Some(after) = rest.strip_prefix(&["("]) {
        *rest = after;
        let found = any(rest, allowed)?;
        *rest = rest.strip_prefix(&[")"])?;
        return Some(found);
    }
    let (name, after) = rest.split_first()?;
    *rest = after;
    let mut licence = (*name).to_owned();
    if let ["WITH", exception, after @ ..] = *rest {
        licence = format!("{licence} WITH {exception}");
        *rest = after;
    }
    Some(allowed.contains(&licence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_as_spdx_has_them() {
        let allowed = ["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
        for (expression, suffice) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0/MIT", true),
            ("MIT AND GPL-3.0", false),
            ("(GPL-3.0 OR MIT) AND Zlib", true),
            ("GPL-3.0 OR MIT AND GPL-2.0", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("Apache-2.0", false),
            ("", false),
            ("MIT MIT", false),
            ("(MIT", false),
        ] {
            assert_eq!(suffices(expression, &allowed), suffice, "{expression}");
        }
    }

    #[test]
    fn a_package_without_a_checksum_is_seen() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0\"\nchecksum = \"0f\"\n\n\
                    [[package]]\nname = \"b\"\nversion = \"2.0\"\n";
        let found = checksums(lock);
        assert_eq!(found.get("a 1.0").map(String::as_str), Some("0f"));
        assert_eq!(found.len(), 1);
        let list = "[licenses]\n# why\nallow = [\n    \"MIT\",\n    \"Zlib\",\n]\n";
        assert_eq!(allowed(list), Ok(vec!["MIT".into(), "Zlib".into()]));
        assert!(allowed("[licenses]\n").is_err());
    }
}
