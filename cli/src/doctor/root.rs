//! The files of a machine, as far as the doctor looks at them: this machine's, or those of a folder that a test made.
//!
//! Whatever is not there, cannot be read, or is not what it should be (a folder, a pipe, a file without end) is
//! `None`: unknown, not an error.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::OFlags;

/// More than any file of interest has. (The longest is the list of a distribution's modules.)
const FILE_BYTES_MAX: u64 = 4 << 20;
/// More entries than any folder of interest has.
const ENTRIES_MAX: usize = 4096;

/// Where `/` is.
pub struct Root(PathBuf);

impl Root {
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Whether it is the machine's own.
    pub fn is_real(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// Where a file is, given its path from the root without a leading slash.
    pub fn path(&self, file: &str) -> PathBuf {
        self.0.join(file.trim_start_matches('/'))
    }

    pub fn exists(&self, file: &str) -> bool {
        self.path(file).exists()
    }

    /// A file's text, without the blanks around it.
    pub fn read(&self, file: &str) -> Option<String> {
        let file = open_regular(&self.path(file))?;
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// A file that holds a number and nothing else.
    pub fn number<N: FromStr>(&self, file: &str) -> Option<N> {
        self.read(file)?.parse().ok()
    }

    /// The value of a line `name: value`, or `name<tab>: value`.
    pub fn field(&self, file: &str, name: &str) -> Option<String> {
        let text = self.read(file)?;
        let value = |line: &str| {
            line.split_once(':').filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
        };
        text.lines().find_map(value)
    }

    /// The names in a folder, numbers in their order; empty if it cannot be read.
    pub fn list(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(folder)) else { return Vec::new() };
        let names = entries.flatten().take(ENTRIES_MAX).map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.collect();
        names.sort_by_cached_key(|name| (name.parse::<u64>().ok(), name.clone()));
        names
    }

    /// The last part of where a symbolic link leads.
    pub fn link_name(&self, link: &str) -> Option<String> {
        Some(fs::read_link(self.path(link)).ok()?.file_name()?.to_string_lossy().into_owned())
    }

    /// The command that installs a package, by the package manager that is there.
    pub fn install(&self, debian: &str, fedora: &str) -> String {
        if self.exists("usr/bin/dnf") && !self.exists("usr/bin/apt-get") {
            format!("sudo dnf install {fedora}")
        } else {
            format!("sudo apt-get install {debian}")
        }
    }
}

/// Opens a file if it is one: to open a pipe could take for ever.
fn open_regular(path: &Path) -> Option<File> {
    #[allow(clippy::cast_possible_wrap, reason = "a flag of the kernel's, as std wants it")]
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    file.metadata().ok()?.is_file().then_some(file)
}

#[cfg(test)]
pub mod made_up {
    //! Folders that look like a machine.

    use std::os::unix::fs::symlink;

    use super::*;

    /// A made-up machine, gone with the value.
    pub struct Machine {
        folder: PathBuf,
        pub root: Root,
    }

    impl Machine {
        pub fn new(test: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("phalanx-doctor-{test}-{}", std::process::id()));
            fs::create_dir_all(&folder).expect("a directory");
            Self { root: Root::new(&folder), folder }
        }

        pub fn with(self, file: &str, text: &str) -> Self {
            let path = self.folder.join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, format!("{text}\n")).expect("a file");
            self
        }

        pub fn with_link(self, link: &str, target: &str) -> Self {
            let path = self.folder.join(link);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            symlink(target, path).expect("a link");
            self
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::made_up::Machine;

    #[test]
    fn what_is_no_ordinary_file_is_unknown() {
        let machine = Machine::new("root").with("folder/file", "7").with("word", "seven").with("10", "").with("9", "");
        let pipe = machine.root.path("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let root = &machine.root;
        assert_eq!(root.read("pipe"), None);
        assert_eq!(root.read("folder"), None);
        assert_eq!(root.read("absent"), None);
        assert_eq!(root.number::<u32>("word"), None);
        assert_eq!(root.number::<u32>("/folder/file"), Some(7));
        assert_eq!(root.list("absent"), Vec::<String>::new());
        let names = root.list("");
        assert!(names.iter().position(|name| name == "9") < names.iter().position(|name| name == "10"));
    }
}
