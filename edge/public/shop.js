// The shop's own part of the page; as delivered it does nothing. Replace this file to use it:
//
//   window.dropgateToken = async () => "eyJ..";      the visitor's JWT, asked for before each request; null: not signed in
//   window.dropgateSignIn = "https://shop.example/sign-in";   where "Sign in" leads
//   window.dropgateWords = { en: { title: "Summer drop" } };  other words, or another language (see words.js)
//
// Without dropgateToken the page takes the token that the shop's link hands over: /c/summer#token=eyJ..
// The page may talk to this host alone (Content-Security-Policy in _headers): allow others there, under connect-src.
