use super::*;

fn python() -> PythonEnvironment {
    PythonEnvironment {
        executable: "/usr/bin/python3".into(),
        version: "3.11.7".into(),
        packages: ["dask", "distributed"]
            .into_iter()
            .map(|name| (name.to_owned(), "2026.8.0".to_owned()))
            .collect(),
    }
}

pub(crate) fn request(sites: &[&str]) -> Request {
    Request {
        id: FederationId::from_random([1, 2, 3, 4, 5]),
        name: "fed".parse().unwrap(),
        sites: sites.iter().map(|name| name.parse().unwrap()).collect(),
        workers: Vec::new(),
        leases: Leases::default(),
        fed_version: "0.1.0".into(),
        python: python(),
    }
}

pub(crate) fn description(site: &str, pools: &[&str]) -> SiteDescription {
    SiteDescription {
        site: site.parse().unwrap(),
        fed_version: "0.1.0".into(),
        pools: pools
            .iter()
            .map(|pool| PoolOffer {
                name: pool.parse().unwrap(),
                data_roots: vec![format!("/data/{pool}")],
                default_workers: 2,
                max_workers: 8,
                threads: 1,
                memory_bytes: 1 << 30,
            })
            .collect(),
        python: python(),
    }
}

fn plan(request: &Request, sites: Vec<SiteDescription>) -> Result<Plan, PlanError> {
    Plan::new(
        request,
        &sites
            .into_iter()
            .map(|site| (site.site.clone(), site))
            .collect(),
    )
}

#[test]
fn numbers_sites_in_the_order_asked_for() {
    let plan = plan(
        &request(&["eumetsat", "ecmwf"]),
        vec![
            description("ecmwf", &["ecmwf"]),
            description("eumetsat", &["eumetsat"]),
        ],
    )
    .unwrap();
    let members: Vec<String> = plan
        .members()
        .into_iter()
        .map(|member| member.name)
        .collect();
    assert_eq!(members, ["operator", "eumetsat", "ecmwf"]);
    assert_eq!(plan.workers(), 4);
}

#[test]
fn the_most_specific_number_of_workers_counts() {
    let mut request = request(&["ecmwf"]);
    let count = |place: &str, workers| WorkerCount {
        place: place.into(),
        workers,
    };
    request.workers = vec![count("gpu", 3), count("ecmwf", 1)];
    let plan = plan(&request, vec![description("ecmwf", &["cpu", "gpu"])]).unwrap();
    let workers: Vec<u32> = plan.pools().map(|(_, pool)| pool.workers).collect();
    assert_eq!(workers, [1, 3]);
}

#[test]
fn refuses_what_cannot_be_built() {
    let two = || vec![description("a", &["p"]), description("b", &["p"])];
    assert_eq!(plan(&request(&[]), vec![]), Err(PlanError::NoSites));
    assert!(matches!(
        plan(&request(&["a", "a"]), two()),
        Err(PlanError::RepeatedSite(_))
    ));
    assert!(matches!(
        plan(&request(&["a", "b"]), two()),
        Err(PlanError::RepeatedPool { .. })
    ));
    let empty = vec![description("a", &[])];
    assert!(matches!(
        plan(&request(&["a"]), empty),
        Err(PlanError::NoPools(_))
    ));
    let mut other = description("a", &["p"]);
    other.fed_version = "0.2.0".into();
    assert!(matches!(
        plan(&request(&["a"]), vec![other]),
        Err(PlanError::FedVersion { .. })
    ));
}

#[test]
fn names_the_nearest_place() {
    let mut request = request(&["ecmwf"]);
    request.workers = vec![WorkerCount {
        place: "ecmfw".into(),
        workers: 1,
    }];
    let error = plan(&request, vec![description("ecmwf", &["ecmwf"])]).unwrap_err();
    assert!(error.to_string().contains("did you mean ecmwf?"), "{error}");
    request.workers = vec![WorkerCount {
        place: "ecmwf".into(),
        workers: 9,
    }];
    let error = plan(&request, vec![description("ecmwf", &["ecmwf"])]).unwrap_err();
    assert!(error.to_string().contains("allows 8"), "{error}");
}
