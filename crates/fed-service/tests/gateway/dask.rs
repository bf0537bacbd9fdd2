//! The real thing: a stock client and a browser's requests through the gateway to a stock Dask.

use crate::cluster::Cluster;
use crate::python;
use crate::setup::Setup;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_client_and_the_dashboard_work_through_the_gateway() {
    let cluster = Cluster::start().await;
    let setup = Setup::open(cluster.scheduler, cluster.dashboard).await;
    let folder = cluster.folder.path();
    for (name, pem) in [
        ("scheduler.pem", setup.server.certificate_pem()),
        ("client.pem", setup.client.certificate_pem()),
        ("client-key.pem", setup.client.private_key_pem()),
    ] {
        std::fs::write(folder.join(name), pem).unwrap();
    }

    let address = format!("tls://{}", setup.gateway.scheduler_address());
    let said = python::run("client.py", folder, &[&address]).await;
    assert_eq!(said, "connect\nsubmit\ngather\nscatter\nreport\nstream\n");

    let said = python::run("dashboard.py", folder, &[&setup.gateway.dashboard_url()]).await;
    assert_eq!(said, "refused\nredirect\npage\nstatic\nwebsocket\norigin\n");

    setup.gateway.close().await;
    cluster.stop().await;
}
