//! The nearest right name to a wrong one.

/// Returns the candidate that a reader most likely meant by `given`, if one is near enough:
/// one slip, and one more for every four characters (Levenshtein distance).
pub fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (distance(given, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, a) in left.chars().enumerate() {
        let mut diagonal = line;
        row[0] = line + 1;
        for (column, b) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[column + 1];
            row[column + 1] = substituted.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_slip_and_nothing_far() {
        let names = ["ecmwf", "eumetsat", "metoffice"];
        assert_eq!(nearest("ecwmf", names), Some("ecmwf"));
        assert_eq!(nearest("eumetsta", names), Some("eumetsat"));
        assert_eq!(nearest("ecmw", names), Some("ecmwf"));
        assert_eq!(nearest("nasa", names), None);
    }
}
