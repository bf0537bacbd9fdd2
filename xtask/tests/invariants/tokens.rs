//! Words and signs of Rust source, without comments, strings and test code.
//!
//! Just enough of a lexer that a rule about code is not misled by prose.

/// A word, number, sign, or `::`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    /// From 1.
    pub(crate) line: usize,
}

/// Splits source into tokens; comments and the contents of literals give none.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let length = skipped(&chars[at..]).unwrap_or(0);
        if length > 0 {
            line += newlines(&chars[at..at + length]);
            at += length;
            continue;
        }
        let length = word_or_sign(&chars[at..]);
        tokens.push(Token {
            text: chars[at..at + length].iter().collect(),
            line,
        });
        at += length;
    }
    tokens
}

fn newlines(chars: &[char]) -> usize {
    chars.iter().filter(|char| **char == '\n').count()
}

/// The length of the white space, comment or literal that `rest` starts with.
fn skipped(rest: &[char]) -> Option<usize> {
    match rest {
        [char, ..] if char.is_whitespace() => Some(1),
        ['/', '/', ..] => Some(
            rest.iter()
                .position(|char| *char == '\n')
                .unwrap_or(rest.len()),
        ),
        ['/', '*', ..] => Some(block_comment(rest)),
        ['"', ..] => Some(quoted(rest, '"')),
        ['\'', ..] => char_literal(rest),
        ['b' | 'c' | 'r', ..] => prefixed_literal(rest),
        _ => None,
    }
}

fn block_comment(rest: &[char]) -> usize {
    let (mut at, mut depth) = (2, 1);
    while at < rest.len() && depth > 0 {
        match rest[at..] {
            ['/', '*', ..] => (at, depth) = (at + 2, depth + 1),
            ['*', '/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
    }
    at
}

/// The length of a literal with backslash escapes, both quotes included.
fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// A quote starts a character only where another closes it; else it starts a lifetime.
fn char_literal(rest: &[char]) -> Option<usize> {
    match rest {
        ['\'', '\\', ..] => Some(quoted(rest, '\'')),
        ['\'', _, '\'', ..] => Some(3),
        _ => None,
    }
}

/// `b'…'`, `b"…"`, `c"…"`, `r"…"`, `r#"…"#`, `br#"…"#`; a word such as `break` or `r#type` is none.
fn prefixed_literal(rest: &[char]) -> Option<usize> {
    let prefix = rest
        .iter()
        .take_while(|char| matches!(char, 'b' | 'c' | 'r'))
        .count();
    let hashes = rest[prefix..]
        .iter()
        .take_while(|char| **char == '#')
        .count();
    let quote = prefix + hashes;
    let raw = rest[..prefix].contains(&'r');
    if prefix > 2 {
        return None;
    }
    match rest.get(quote) {
        Some('"') if raw => {
            let end: Vec<char> = std::iter::once('"').chain(vec!['#'; hashes]).collect();
            let body = rest[quote + 1..]
                .windows(end.len())
                .position(|window| window == end);
            Some(body.map_or(rest.len(), |body| quote + 1 + body + end.len()))
        }
        Some('"') if hashes == 0 => Some(quote + quoted(&rest[quote..], '"')),
        Some('\'') if rest[..prefix] == ['b'] && hashes == 0 => {
            Some(quote + quoted(&rest[quote..], '\''))
        }
        _ => None,
    }
}

fn word_or_sign(rest: &[char]) -> usize {
    let word = rest
        .iter()
        .take_while(|char| char.is_alphanumeric() || **char == '_')
        .count();
    match rest {
        _ if word > 0 => word,
        [':', ':', ..] => 2,
        _ => 1,
    }
}

/// Whether `tokens` start with these texts.
pub(crate) fn starts_with(tokens: &[Token], texts: &[&str]) -> bool {
    tokens.len() >= texts.len()
        && tokens
            .iter()
            .zip(texts)
            .all(|(token, text)| token.text == *text)
}

/// Code as a product build sees it, and the modules `mod NAME;` that only a test build has.
pub(crate) fn without_tests(tokens: &[Token]) -> (Vec<Token>, Vec<String>) {
    let (mut kept, mut modules) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let attribute = attribute_length(&tokens[at..]);
        if attribute > 0 && is_test_attribute(&tokens[at..at + attribute]) {
            at += attribute;
            while attribute_length(&tokens[at..]) > 0 {
                at += attribute_length(&tokens[at..]);
            }
            let item = item_length(&tokens[at..]);
            if let [.., keyword, name, end] = &tokens[at..at + item]
                && keyword.text == "mod"
                && end.text == ";"
            {
                modules.push(name.text.clone());
            }
            at += item;
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    (kept, modules)
}

/// The length of the outer attribute `#[…]` that `tokens` start with, or 0.
fn attribute_length(tokens: &[Token]) -> usize {
    if starts_with(tokens, &["#", "["]) {
        1 + balanced(&tokens[1..])
    } else {
        0
    }
}

fn is_test_attribute(attribute: &[Token]) -> bool {
    let has = |word: &str| attribute.iter().any(|token| token.text == word);
    has("cfg") && has("test") && !has("not")
}

/// The length of an item: up to its `;` or the end of its braces.
fn item_length(tokens: &[Token]) -> usize {
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            ";" => return at + 1,
            "{" => return at + balanced(&tokens[at..]),
            "(" | "[" => at += balanced(&tokens[at..]),
            _ => at += 1,
        }
    }
    at
}

/// The length of the bracketed group that `tokens` start with.
pub(crate) fn balanced(tokens: &[Token]) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        tokens(source).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_literals_give_no_tokens() {
        assert_eq!(
            texts("a // unsafe\n/* unsafe /* x */ unsafe */ b"),
            ["a", "b"]
        );
        assert_eq!(
            texts(r#"a("un\"safe", 'x', '\'', b'y', b"z", c"w")"#).len(),
            8
        );
        assert_eq!(texts(r####"r#"unsafe " fn"# end"####), ["end"]);
    }

    #[test]
    fn lifetimes_raw_names_and_words_with_b_c_r_stay() {
        assert_eq!(texts("&'a str"), ["&", "'", "a", "str"]);
        assert_eq!(
            texts("break crate bar r#type"),
            ["break", "crate", "bar", "r", "#", "type"]
        );
        assert_eq!(texts("std::fs"), ["std", "::", "fs"]);
    }

    #[test]
    fn lines_are_counted_over_strings_and_comments() {
        let tokens = tokens("\"a\nb\" /*\n*/ here\nthere");
        assert_eq!(
            tokens.iter().map(|token| token.line).collect::<Vec<_>>(),
            [3, 4]
        );
    }

    #[test]
    fn test_items_are_cut_and_their_files_named() {
        let source = "fn a() {}\n#[cfg(test)]\n#[path = \"x\"]\nmod tests { fn b() { c(); } }\n\
                      #[cfg(test)] mod cases;\n#[cfg(test)] use d::e;\nfn f() {}";
        let (kept, modules) = without_tests(&tokens(source));
        let kept: String = kept.iter().map(|token| token.text.as_str()).collect();
        assert_eq!(kept, "fna(){}fnf(){}");
        assert_eq!(modules, ["cases"]);
    }

    #[test]
    fn code_for_products_alone_stays() {
        let (kept, _) = without_tests(&tokens("#[cfg(not(test))] fn a() {}"));
        assert!(kept.iter().any(|token| token.text == "a"));
    }
}
