//! An identity in a file that only its owner can read.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tempfile::NamedTempFile;
use thiserror::Error;

use super::{Identity, IdentityError};

const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Why an identity cannot be read from or written to its file.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file or its folder cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file or its folder cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than the owner may look at the file, or into its folder.
    #[error(
        "{} has mode {mode:03o}, so that others can get at the private key; run: chmod {allowed:03o} {}",
        path.display(), path.display()
    )]
    TooOpen {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The widest permission bits that are accepted.
        allowed: u32,
    },
    /// The file does not hold a certificate and a private key in PEM.
    #[error(
        "{} does not hold a certificate and a private key in PEM; move it away to have a new identity made",
        path.display()
    )]
    Pem {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: rustls_pki_types::pem::Error,
    },
    /// What the file holds is no identity.
    #[error("{} holds no usable identity", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: IdentityError,
    },
}

impl Identity {
    /// Reads an identity from a PEM file with a certificate and a private key.
    ///
    /// # Errors
    /// When the file cannot be read or parsed, or it or its folder is open to others.
    pub fn load(path: &Path) -> Result<Self, StoreError> {
        check_mode(folder_of(path), FOLDER_MODE)?;
        check_mode(path, FILE_MODE)?;
        let text = fs::read(path).map_err(|source| StoreError::Read {
            path: path.to_owned(),
            source,
        })?;
        let not_pem = |source| StoreError::Pem {
            path: path.to_owned(),
            source,
        };
        let certificate = CertificateDer::from_pem_slice(&text).map_err(not_pem)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(not_pem)?;
        Self::from_parts(certificate, key).map_err(|source| StoreError::Identity {
            path: path.to_owned(),
            source,
        })
    }

    /// Writes the identity to a file of mode 0600, in a folder of mode 0700 that is made if need
    /// be. An earlier file is replaced as a whole.
    ///
    /// # Errors
    /// When the file cannot be written, or its folder is open to others.
    pub fn save(&self, path: &Path) -> Result<(), StoreError> {
        self.write_beside(path)?
            .persist(path)
            .map_err(|error| unwritable(path, error.error))?;
        sync_folder(path)
    }

    /// Reads an identity, or makes and writes one where there is no file yet.
    ///
    /// Of two processes that do this at once, both get the identity of the first.
    ///
    /// # Errors
    /// As [`Identity::load`] and [`Identity::save`], or when no key can be made.
    pub fn load_or_create(path: &Path, common_name: &str) -> Result<Self, StoreError> {
        let present = path.try_exists().map_err(|source| StoreError::Read {
            path: path.to_owned(),
            source,
        })?;
        if present {
            return Self::load(path);
        }
        let identity = Self::generate(common_name).map_err(|source| StoreError::Identity {
            path: path.to_owned(),
            source,
        })?;
        match identity.write_beside(path)?.persist_noclobber(path) {
            Ok(_) => {
                sync_folder(path)?;
                Ok(identity)
            }
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Self::load(path),
            Err(error) => Err(unwritable(path, error.error)),
        }
    }

    /// Writes the identity to a file without a lasting name in the folder of `path`.
    fn write_beside(&self, path: &Path) -> Result<NamedTempFile, StoreError> {
        let folder = folder_of(path);
        DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(folder)
            .map_err(|source| unwritable(folder, source))?;
        check_mode(folder, FOLDER_MODE)?;
        let mut file = tempfile::Builder::new()
            .prefix(".identity-")
            .permissions(Permissions::from_mode(FILE_MODE))
            .tempfile_in(folder)
            .map_err(|source| unwritable(folder, source))?;
        let text = self.certificate_pem() + &self.private_key_pem();
        file.write_all(text.as_bytes())
            .and_then(|()| file.as_file().sync_all())
            .map_err(|source| unwritable(path, source))?;
        Ok(file)
    }
}

fn unwritable(path: &Path, source: io::Error) -> StoreError {
    StoreError::Write {
        path: path.to_owned(),
        source,
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn check_mode(path: &Path, allowed: u32) -> Result<(), StoreError> {
    let metadata = fs::metadata(path).map_err(|source| StoreError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & !allowed != 0 {
        return Err(StoreError::TooOpen {
            path: path.to_owned(),
            mode,
            allowed,
        });
    }
    Ok(())
}

/// Makes the new name in the folder survive a crash of the host.
fn sync_folder(path: &Path) -> Result<(), StoreError> {
    let folder = folder_of(path);
    fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| unwritable(folder, source))
}

/// Writes DER as PEM (RFC 7468: lines of 64 characters).
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let lines: Vec<&str> = encoded
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).expect("base64 is ASCII"))
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn it_is_written_for_its_owner_alone_and_read_back() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("keys/identity.pem");
        let made = Identity::load_or_create(&path, "ecmwf").unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);

        let read = Identity::load_or_create(&path, "ecmwf").unwrap();
        assert_eq!(read.fingerprint(), made.fingerprint());
        assert_eq!(read.certificate(), made.certificate());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn saving_replaces() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("keys/identity.pem");
        Identity::generate("old").unwrap().save(&path).unwrap();
        let new = Identity::generate("new").unwrap();
        new.save(&path).unwrap();
        assert_eq!(
            Identity::load(&path).unwrap().fingerprint(),
            new.fingerprint()
        );
    }

    #[test]
    fn a_file_or_folder_open_to_others_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("keys/identity.pem");
        let identity = Identity::load_or_create(&path, "ecmwf").unwrap();

        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let error = Identity::load(&path).unwrap_err();
        assert!(
            matches!(&error, StoreError::TooOpen { path: at, mode: 0o640, allowed: 0o600 } if *at == path)
        );
        assert!(error.to_string().contains("chmod 600"), "{error}");

        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        Identity::load(&path).unwrap();

        fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
        for error in [
            Identity::load(&path).unwrap_err(),
            identity.save(&path).unwrap_err(),
        ] {
            assert!(
                matches!(
                    error,
                    StoreError::TooOpen {
                        mode: 0o755,
                        allowed: 0o700,
                        ..
                    }
                ),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_without_an_identity_is_not_overwritten() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("keys/identity.pem");
        Identity::load_or_create(&path, "ecmwf").unwrap();
        fs::write(&path, "something else").unwrap();
        let error = Identity::load_or_create(&path, "ecmwf").unwrap_err();
        assert!(matches!(error, StoreError::Pem { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "something else");
    }

    #[test]
    fn processes_that_start_at_once_agree() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("keys/identity.pem");
        let made: Vec<_> = std::thread::scope(|scope| {
            let starters: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| Identity::load_or_create(&path, "ecmwf").unwrap()))
                .collect();
            starters
                .into_iter()
                .map(|starter| starter.join().unwrap().fingerprint())
                .collect()
        });
        assert!(
            made.iter().all(|fingerprint| *fingerprint == made[0]),
            "{made:?}"
        );
    }
}
