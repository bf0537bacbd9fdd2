//! Do the sites run the same software? Checked before anything starts.
//!
//! Dask sends pickled Python between its processes: another Python minor version or another
//! `distributed` fails late and unreadably, so both stop `fed up`. Other differences are shown.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{PythonEnvironment, SiteName};

/// Packages that are compared, besides Python itself.
pub(crate) const PACKAGES: [&str; 6] = [
    "dask",
    "distributed",
    "numpy",
    "pandas",
    "msgpack",
    "xarray",
];

/// How a line of the table came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Agreement {
    /// The same everywhere.
    Same,
    /// Different, which usually works.
    Differs,
    /// Different or missing, which cannot work.
    Stops,
}

/// One package, at the operator and at each site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRow {
    /// Distribution name, or `python`.
    pub package: String,
    /// Version at the operator; absent where not installed.
    pub operator: Option<String>,
    /// Version at each site; absent where not installed.
    pub sites: BTreeMap<SiteName, Option<String>>,
    /// What follows of it.
    pub agreement: Agreement,
}

/// The versions of the operator and of every site, side by side. `Display` prints it as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionTable {
    /// Python first, then the packages.
    pub rows: Vec<VersionRow>,
}

impl VersionTable {
    /// Compares the sites with the operator.
    pub fn compare(
        operator: &PythonEnvironment,
        sites: &BTreeMap<SiteName, &PythonEnvironment>,
    ) -> Self {
        let python = row("python", Some(&operator.version), sites, |site| {
            Some(&site.version)
        });
        let packages = PACKAGES.into_iter().map(|package| {
            row(package, operator.packages.get(package), sites, |site| {
                site.packages.get(package)
            })
        });
        Self {
            rows: std::iter::once(python).chain(packages).collect(),
        }
    }

    /// The worst line of the table.
    pub fn agreement(&self) -> Agreement {
        self.rows
            .iter()
            .map(|row| row.agreement)
            .max()
            .unwrap_or(Agreement::Same)
    }
}

fn row<'a>(
    package: &str,
    operator: Option<&String>,
    sites: &BTreeMap<SiteName, &'a PythonEnvironment>,
    version: impl Fn(&'a PythonEnvironment) -> Option<&'a String>,
) -> VersionRow {
    let sites: BTreeMap<_, _> = sites
        .iter()
        .map(|(name, environment)| (name.clone(), version(environment).cloned()))
        .collect();
    let agreement = sites
        .values()
        .map(|site| agreement(package, operator.map(String::as_str), site.as_deref()))
        .max()
        .unwrap_or(Agreement::Same);
    VersionRow {
        package: package.to_owned(),
        operator: operator.cloned(),
        sites,
        agreement,
    }
}

fn agreement(package: &str, operator: Option<&str>, site: Option<&str>) -> Agreement {
    let compared = |version: Option<&str>| match package {
        "python" => version.map(minor),
        _ => version.map(str::to_owned),
    };
    let same = compared(operator) == compared(site);
    match package {
        "python" | "distributed" | "dask" if site.is_none() || operator.is_none() => {
            Agreement::Stops
        }
        "python" | "distributed" if !same => Agreement::Stops,
        _ if !same => Agreement::Differs,
        _ => Agreement::Same,
    }
}

/// `3.11.7` → `3.11`.
fn minor(version: &str) -> String {
    version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".")
}

impl fmt::Display for VersionTable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |version: &Option<String>| version.clone().unwrap_or_else(|| "-".to_owned());
        let sites: Vec<&SiteName> = self
            .rows
            .first()
            .map(|row| row.sites.keys().collect())
            .unwrap_or_default();
        let mut lines = vec![
            ["package", "operator"]
                .into_iter()
                .map(str::to_owned)
                .chain(sites.iter().map(ToString::to_string))
                .chain([String::new()])
                .collect::<Vec<_>>(),
        ];
        for row in &self.rows {
            let note = match row.agreement {
                Agreement::Same => "",
                Agreement::Differs => "differs",
                Agreement::Stops => "must be the same",
            };
            lines.push(
                [row.package.clone(), shown(&row.operator)]
                    .into_iter()
                    .chain(row.sites.values().map(shown))
                    .chain([note.to_owned()])
                    .collect(),
            );
        }
        let widths: Vec<usize> = (0..lines[0].len())
            .map(|column| {
                lines
                    .iter()
                    .map(|line| line[column].len())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        for (index, line) in lines.iter().enumerate() {
            let text: Vec<String> = line
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}", width = *width))
                .collect();
            let newline = if index == 0 { "" } else { "\n" };
            write!(formatter, "{newline}{}", text.join("  ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(python: &str, distributed: &str, numpy: &str) -> PythonEnvironment {
        PythonEnvironment {
            executable: "/opt/bin/python".into(),
            version: python.into(),
            packages: [
                ("dask", "2026.8.0"),
                ("distributed", distributed),
                ("numpy", numpy),
            ]
            .into_iter()
            .map(|(name, version)| (name.into(), version.into()))
            .collect(),
        }
    }

    fn against(site: &PythonEnvironment) -> VersionTable {
        let operator = environment("3.11.7", "2026.8.0", "2.4.6");
        let name: SiteName = "ecmwf".parse().unwrap();
        VersionTable::compare(&operator, &BTreeMap::from([(name, site)]))
    }

    #[test]
    fn a_patch_release_of_python_is_the_same() {
        let table = against(&environment("3.11.2", "2026.8.0", "2.4.6"));
        assert_eq!(table.agreement(), Agreement::Same);
    }

    #[test]
    fn another_numpy_is_shown_and_another_distributed_stops() {
        let differs = against(&environment("3.11.7", "2026.8.0", "2.4.0"));
        assert_eq!(differs.agreement(), Agreement::Differs);
        let stops = against(&environment("3.11.7", "2026.7.1", "2.4.6"));
        assert_eq!(stops.agreement(), Agreement::Stops);
        let minor = against(&environment("3.12.0", "2026.8.0", "2.4.6"));
        assert_eq!(minor.agreement(), Agreement::Stops);
        assert!(minor.to_string().contains("must be the same"), "{minor}");
    }

    #[test]
    fn a_missing_distributed_stops() {
        let mut site = environment("3.11.7", "2026.8.0", "2.4.6");
        site.packages.remove("distributed");
        assert_eq!(against(&site).agreement(), Agreement::Stops);
    }

    #[test]
    fn prints_aligned_columns() {
        let text = against(&environment("3.11.7", "2026.7.1", "2.4.6")).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "package      operator  ecmwf");
        assert_eq!(
            lines[3],
            "distributed  2026.8.0  2026.7.1  must be the same"
        );
    }
}
