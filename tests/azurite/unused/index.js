// Stands in for packages that Azurite loads at start-up and whose functions the tests never reach.
module.exports = {};
