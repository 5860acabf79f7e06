//! What agents log in with, and whether it is there. Whether it is taken only the service knows.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Where an agent finds what it logs in with. Any of these will do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Variables that may hold a key.
    pub variables: Vec<String>,
    /// A file that holds a key.
    pub file: Option<PathBuf>,
    /// What a login of its own leaves behind.
    pub login: Option<Login>,
}

/// What the login of an agent leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Login {
    /// The variable that names its directory.
    pub home: &'static str,
    /// Its directory below the user's home, where that variable is not set.
    pub usual_home: &'static str,
    /// The file in there.
    pub file: &'static str,
}

impl Credentials {
    /// Whether there is a key among these variables, or a file with one or that a login leaves behind.
    #[must_use]
    pub fn are_there(&self, variables: &BTreeMap<String, String>) -> bool {
        let login = self.login.and_then(|login| {
            let usual = || Some(Path::new(variables.get("HOME")?).join(login.usual_home));
            let home = variables.get(login.home).map(PathBuf::from).or_else(usual)?;
            Some(home.join(login.file))
        });
        self.variables.iter().any(|name| variables.get(name).is_some_and(|value| !value.is_empty()))
            || self.file.iter().chain(&login).any(|file| file.is_file())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_or_a_file_will_do() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().display().to_string();
        let variables = |more: &[(&str, &str)]| -> BTreeMap<String, String> {
            let all = [("HOME", home.as_str())].into_iter().chain(more.iter().copied());
            all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let wanted = Credentials {
            variables: vec!["A_KEY".to_owned()],
            file: Some(dir.path().join("key")),
            login: Some(Login { home: "A_HOME", usual_home: ".a", file: "login.json" }),
        };
        assert!(!wanted.are_there(&variables(&[])) && !wanted.are_there(&variables(&[("A_KEY", "")])));
        assert!(wanted.are_there(&variables(&[("A_KEY", "x")])));
        std::fs::create_dir(dir.path().join(".a")).unwrap();
        std::fs::write(dir.path().join(".a/login.json"), "{}").unwrap();
        assert!(wanted.are_there(&variables(&[])));
        assert!(!wanted.are_there(&variables(&[("A_HOME", "/nowhere")])));
        std::fs::write(dir.path().join("key"), "k").unwrap();
        assert!(wanted.are_there(&variables(&[("A_HOME", "/nowhere")])));
    }
}
