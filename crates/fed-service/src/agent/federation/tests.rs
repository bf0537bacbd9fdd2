//! What becomes of what a call has reserved.

use futures::FutureExt as _;

use super::*;
use crate::agent::account::Accounts;
use crate::agent::ledger::Load;
use crate::agent::policy::tests::{offer, pool};
use crate::agent::policy::{Allowance, Limits};

fn federation(queue: usize) -> (Federation, mpsc::Receiver<Call>) {
    let (calls, received) = mpsc::channel(queue);
    let (events, _) = broadcast::channel(1);
    let operator = "alice".to_owned();
    let federation = Federation {
        operator,
        calls,
        events,
    };
    (federation, received)
}

#[tokio::test]
async fn a_reservation_lasts_as_long_as_its_call_and_no_longer() {
    let (site, pool): (SiteName, PoolName) = ("ecmwf".parse().unwrap(), pool("hot"));
    let limits = Limits {
        workers: Some(4),
        ..Limits::default()
    };
    let allowance = Allowance {
        site: &site,
        operator: "alice",
        limits: &limits,
    };
    let accounts = Accounts::default();
    let ids = [1, 2].map(|number| FederationId::from_random([number; 5]));
    let _open = ids.map(|id| accounts.open(id, "alice", vec![offer("hot")], Load::new()));
    let reserve = |of: usize, workers| {
        let sizes = [(pool.clone(), workers)];
        accounts.reserve(ids[of], &sizes, &allowance)
    };
    let scale = |reservation| {
        let pool = pool.clone();
        move |answer| Call::Scale {
            pool,
            workers: 2,
            reservation,
            answer,
        }
    };
    let (first, mut queue) = federation(1);
    let two = reserve(0, 2).unwrap();
    // Its caller gives up at once, but the task will do it all the same.
    assert!(first.call(scale(two)).now_or_never().is_none());
    let two_more = reserve(1, 2).unwrap();
    assert!(reserve(0, 3).is_err());
    // This one's caller gives up before there is room in the queue.
    assert!(first.call(scale(two_more)).now_or_never().is_none());
    let two_more = reserve(1, 2).unwrap();
    let call = queue.recv().await.unwrap();
    assert!(reserve(0, 3).is_err());
    call.refuse(Refusal::new(Reason::UnknownFederation, "it has ended"));
    assert!(reserve(1, 4).is_ok());
    // The task is gone with what waits for it.
    assert!(first.call(scale(two_more)).now_or_never().is_none());
    assert!(reserve(0, 4).is_err());
    drop(queue);
    assert!(reserve(0, 4).is_ok());
}
