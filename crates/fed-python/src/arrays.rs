//! Arrays of integers out of Python objects.

use pyo3::buffer::{Element, PyBuffer};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

/// Copies an object that has a buffer of `T` at one stroke (`array.array`, `numpy.ndarray`), and
/// any other sequence of ints one by one. `name` is for errors.
pub(crate) fn array<'py, T>(object: &Bound<'py, PyAny>, name: &str) -> PyResult<Vec<T>>
where
    T: Element + for<'a> FromPyObject<'a, 'py>,
{
    if let Ok(buffer) = PyBuffer::<T>::get(object) {
        return buffer.to_vec(object.py());
    }
    object.extract().map_err(|error| {
        let bits = 8 * size_of::<T>();
        PyTypeError::new_err(format!(
            "{name} is neither a buffer of unsigned {bits}-bit integers nor a sequence of such: {error}"
        ))
    })
}
