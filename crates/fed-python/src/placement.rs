//! `fed._fed.place` and what it returns.

use fed_place::{Graph, Links, Options, PlaceError, Reason};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::arrays::array;

/// A pool per task, and what that costs.
#[pyclass(frozen, module = "fed._fed")]
pub(crate) struct Placement {
    inner: fed_place::Placement,
    pool_count: usize,
}

#[pymethods]
impl Placement {
    /// Pool of each task, -1 where any will do. A new list at each access.
    #[getter]
    fn pools(&self) -> Vec<i16> {
        let pools = self.inner.pools.iter();
        pools.map(|pool| pool.map_or(-1, i16::from)).collect()
    }

    /// Why, a reason per byte.
    #[getter]
    fn reasons<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let codes: Vec<u8> = self.inner.reasons.iter().map(|why| *why as u8).collect();
        PyBytes::new(py, &codes)
    }

    /// What each task's next best pool would cost more. A new list at each access.
    #[getter]
    fn savings(&self) -> Vec<f64> {
        self.inner.savings.clone()
    }

    /// Bytes that will cross, `crossing_bytes[from][to]`.
    #[getter]
    fn crossing_bytes(&self) -> Vec<Vec<u64>> {
        let rows = self.inner.crossing.bytes.chunks(self.pool_count);
        rows.map(<[u64]>::to_vec).collect()
    }

    /// Cost of this placement.
    #[getter]
    fn cost(&self) -> f64 {
        self.inner.crossing.cost
    }

    /// Cost of the plain rule.
    #[getter]
    fn plain_cost(&self) -> f64 {
        self.inner.plain_cost
    }

    /// No placement costs less.
    #[getter]
    fn lower_bound(&self) -> f64 {
        self.inner.lower_bound
    }

    /// Number of tasks by reason.
    #[getter]
    fn counts(&self) -> Vec<(u8, usize)> {
        let count = |why: Reason| self.inner.reasons.iter().filter(|it| **it == why).count();
        let all = Reason::ALL.into_iter();
        all.map(|why| (why as u8, count(why))).collect()
    }

    fn __len__(&self) -> usize {
        self.inner.pools.len()
    }

    fn __repr__(&self) -> String {
        format!(
            "<Placement of {} tasks over {} pools, cost {:.4e} (plain {:.4e}, at least {:.4e})>",
            self.inner.pools.len(),
            self.pool_count,
            self.inner.crossing.cost,
            self.inner.plain_cost,
            self.inner.lower_bound,
        )
    }
}

/// Choose a pool for every task of a graph; see the stub for what the arguments are.
#[pyfunction]
#[pyo3(signature = (
    output_bytes, indptr, indices, allowed, cost, capacity=None, *,
    present=None, surcharge=None, slack=0.0
))]
#[expect(
    clippy::too_many_arguments,
    clippy::needless_pass_by_value,
    reason = "Python's arguments"
)]
pub(crate) fn place(
    py: Python<'_>,
    output_bytes: &Bound<'_, PyAny>,
    indptr: &Bound<'_, PyAny>,
    indices: &Bound<'_, PyAny>,
    allowed: &Bound<'_, PyAny>,
    cost: Vec<Vec<f64>>,
    capacity: Option<Vec<u32>>,
    present: Option<&Bound<'_, PyAny>>,
    surcharge: Option<f64>,
    slack: f64,
) -> PyResult<Placement> {
    let output_bytes = array::<u64>(output_bytes, "output_bytes")?;
    let indptr = array::<u32>(indptr, "indptr")?;
    let indices = array::<u32>(indices, "indices")?;
    let allowed = array::<u64>(allowed, "allowed")?;
    let present = match present {
        Some(present) => array::<u64>(present, "present")?,
        None => Vec::new(),
    };
    let defaults = Options::default();
    let options = Options {
        surcharge: surcharge.unwrap_or(defaults.surcharge),
        slack,
        capacity: capacity.unwrap_or_default(),
    };
    py.detach(|| {
        let graph = Graph {
            output_bytes: &output_bytes,
            indptr: &indptr,
            indices: &indices,
            allowed: &allowed,
            present: &present,
        };
        let links = links(&cost)?;
        let inner = fed_place::place(&graph, &links, &options)?;
        let pool_count = links.pools();
        Ok(Placement { inner, pool_count })
    })
    .map_err(|error: PlaceError| PyValueError::new_err(error.to_string()))
}

fn links(cost: &[Vec<f64>]) -> Result<Links, PlaceError> {
    if let Some(row) = cost.iter().position(|row| row.len() != cost.len()) {
        let what = format!(
            "row {row} has {} of {} columns",
            cost[row].len(),
            cost.len()
        );
        return Err(PlaceError::Cost { what });
    }
    Links::new(cost.len(), &cost.concat())
}
