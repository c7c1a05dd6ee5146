//! libibverbs and its providers, looked for as the library itself will: by the name that it is loaded by at run time.

#![allow(unsafe_code, reason = "loading a library runs its constructors")]

use std::collections::BTreeSet;

use libloading::Library;

use crate::doctor::root::Root;

const NAME: &str = "libibverbs.so.1";
/// Where loaders look, and distributions put libraries.
const FOLDERS: &[&str] = &["lib64", "usr/lib64", "lib", "usr/lib", "usr/local/lib64", "usr/local/lib"];

/// What there is of the library.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Libraries {
    /// Where libibverbs was found.
    pub path: Option<String>,
    /// What the loader said instead.
    pub error: Option<String>,
    /// The user-space parts of drivers: `mlx5`, `rxe`.
    pub providers: BTreeSet<String>,
}

pub fn find(root: &Root) -> Libraries {
    let folders = folders(root);
    let (path, error) = if root.is_real() { load(root) } else { search(root, &folders) };
    Libraries { path, error, providers: providers(root, &folders) }
}

/// Loads it, as the RDMA fabric does: only the loader knows all of its ways.
fn load(root: &Root) -> (Option<String>, Option<String>) {
    // SAFETY: libibverbs's constructors set up tables of its own and touch no device; it is never unloaded.
    match unsafe { Library::new(NAME) } {
        Ok(library) => {
            std::mem::forget(library);
            (Some(mapped(root).unwrap_or_else(|| NAME.to_owned())), None)
        }
        Err(error) => (None, Some(error.to_string())),
    }
}

/// Where the loader has found it.
fn mapped(root: &Root) -> Option<String> {
    let maps = root.read("proc/self/maps")?;
    let mut paths = maps.lines().filter_map(|line| Some(&line[line.find('/')?..]));
    paths.find(|path| path.contains("/libibverbs.so")).map(ToOwned::to_owned)
}

fn search(root: &Root, folders: &[String]) -> (Option<String>, Option<String>) {
    let path = folders.iter().map(|folder| format!("{folder}/{NAME}")).find(|path| root.exists(path));
    let error = path.is_none().then(|| format!("{NAME}: not found"));
    (path.map(|path| format!("/{path}")), error)
}

/// The usual folders, and those of each architecture in them (`usr/lib/x86_64-linux-gnu`).
fn folders(root: &Root) -> Vec<String> {
    let of_architectures = |folder: &&str| {
        let names = root.list(folder).into_iter().filter(|name| name.contains("-linux-"));
        names.map(|name| format!("{folder}/{name}")).collect::<Vec<_>>()
    };
    let multiarch = FOLDERS.iter().flat_map(of_architectures);
    FOLDERS.iter().map(|folder| (*folder).to_owned()).chain(multiarch).collect()
}

/// Providers are shared objects named after the driver and an internal version (`libmlx5-rdmav34.so`). (The files in
/// /etc/libibverbs.d only name those that may be there; a few are built into the library.)
fn providers(root: &Root, folders: &[String]) -> BTreeSet<String> {
    let files = folders.iter().flat_map(|folder| root.list(&format!("{folder}/libibverbs")));
    let name = |file: String| Some(file.strip_prefix("lib")?.split_once("-rdmav")?.0.to_owned());
    files.filter_map(name).collect()
}

/// The provider that a kernel's driver needs.
pub fn provider_of(driver: &str) -> &str {
    match driver {
        "mlx5_core" => "mlx5",
        "mlx4_core" => "mlx4",
        "bnxt_en" | "bnxt_re" => "bnxt_re",
        "ice" | "i40e" | "irdma" => "irdma",
        "hns3" | "hns_roce_hw_v2" => "hns",
        "qede" | "qedr" => "qedr",
        "hfi1" => "hfi1verbs",
        other => other,
    }
}
